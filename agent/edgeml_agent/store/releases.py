"""The releases' files: a folder each, written chunk by chunk and renamed once everything is verified.

    releases/START-OF-DIGEST.partial/   being fetched: manifest.json and the files, each chunk at its place
    releases/START-OF-DIGEST/           whole and verified, since only `finish` renames

A partial folder is hashed to find the chunks that it has. There is no list of chunks that could be lost or wrong, and a
chunk that reached the disk is never fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

import msgspec

from edgeml_agent import log
from edgeml_agent.store import tuning
from edgeml_core import chunks
from edgeml_core import manifest as manifests
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError
from edgeml_core.manifest import MANIFEST_NAME, Manifest
from edgeml_io import files

FOLDER_NAME: Final = "releases"
#: Characters of the digest in a folder's name: 128 bits can't collide, and paths stay readable.
NAME_CHARS: Final = 32
#: Bytes that stay free on the disk for logs, the database and other programs.
RESERVE_BYTES: Final = 32 * 1024**2
#: Chunks between two syncs: a power cut costs at most 4 MiB.
SYNC_EVERY_CHUNKS: Final = 64
PARTIAL_SUFFIX: Final = ".partial"
_TRASH: Final = ".trash"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release: `digest` is the SHA-256 of `manifest_bytes`."""

    digest: str
    manifest_bytes: bytes
    manifest: Manifest


class PartialRelease:
    """A release that is being fetched to the disk. One thread at a time may call."""

    def __init__(self, folder: Path, release: Release) -> None:
        self.folder = folder
        self.release = release
        self._places: dict[str, list[tuple[Path, int]]] = {}
        self._unsynced: set[Path] = set()
        self._unsynced_chunks = 0
        for entry in release.manifest.files:
            for index, digest in enumerate(entry.chunks):
                self._places.setdefault(digest, []).append((folder / entry.path, index))

    def missing(self) -> list[str]:
        """Read all files and return the digests of the chunks that are missing, in the order of the files."""
        missing: dict[str, None] = {}
        with _translate_errors():
            for entry in self.release.manifest.files:
                held = [chunks.sha256(chunk) for chunk in _read_chunks(self.folder / entry.path)]
                held += [""] * (len(entry.chunks) - len(held))
                missing |= {want: None for want, have in zip(entry.chunks, held, strict=False) if want != have}
        return list(missing)

    def size_of(self, digests: Sequence[str]) -> int:
        """Return the number of bytes at the places of these chunks."""
        wanted = set(digests)
        return sum(
            chunks.length(entry.size_bytes, index)
            for entry in self.release.manifest.files
            for index, digest in enumerate(entry.chunks)
            if digest in wanted
        )

    def put(self, digest: str, chunk: bytes) -> int:
        """Write a verified chunk to all its places, and return how many bytes these are."""
        with _translate_errors():
            for path, index in self._places[digest]:
                _write_at(path, index * chunks.CHUNK_BYTES, chunk)
                self._unsynced.add(path)
        self._unsynced_chunks += 1
        if self._unsynced_chunks >= SYNC_EVERY_CHUNKS:
            self.sync()
        return len(chunk) * len(self._places[digest])

    def sync(self) -> None:
        """Sync the chunks written so far, so that they survive a power cut."""
        with _translate_errors():
            for path in self._unsynced:
                files.sync(path)
        self._unsynced.clear()
        self._unsynced_chunks = 0

    def verify(self) -> None:
        """Verify every file on the disk against its SHA-256.

        Raises:
            RejectedError: `digest-mismatch`, when the manifest contradicts itself: right chunks, wrong file.
            DeviceError: `store-failed`, when the disk lost written data.
        """
        for entry in self.release.manifest.files:
            if _sha256(self.folder / entry.path) == entry.sha256:
                continue
            if lost := len(self.missing()):
                message = f"the disk didn't keep {lost} chunks of {self.release.manifest.stem}"
                raise DeviceError("store-failed", message, "check the disk; SD cards wear out")
            message = f"{entry.path!r} of {self.release.manifest.stem} isn't what its manifest lists"
            raise RejectedError("digest-mismatch", message, "export and publish the model under a new version")


class DeltaBases:
    """The chunks of whole releases that deltas can be made to: those at the places of another release's chunks."""

    def __init__(self, wanted: Manifest) -> None:
        self._wanted = wanted
        self._places: dict[str, tuple[str, Path, int]] = {}

    def add(self, folder: Path, held: Manifest) -> None:
        """Add the chunks of the release in `folder`."""
        files = {entry.path: entry.chunks for entry in held.files}
        for entry in self._wanted.files:
            for index, (digest, base) in enumerate(zip(entry.chunks, files.get(entry.path, ()), strict=False)):
                self._places[digest] = (base, folder / entry.path, index)

    def digest(self, wanted: str) -> str:
        """Return the digest of the chunk at the place of `wanted`; empty if there is none."""
        return self._places[wanted][0] if wanted in self._places else ""

    def read(self, wanted: str) -> bytes:
        """Read the chunk at the place of `wanted` from the disk; empty if there is none that can be read."""
        if wanted not in self._places:
            return b""
        _, path, index = self._places[wanted]
        try:
            with path.open("rb") as content:
                content.seek(index * chunks.CHUNK_BYTES)
                return content.read(chunks.CHUNK_BYTES)
        except OSError:
            return b""  # so the delta is wrong, and the whole chunk is requested


class Releases:
    """All releases in one folder.

    Raises:
        DeviceError: `store-failed`, from every method, when the files can't be read or written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder / FOLDER_NAME
        self._max_bytes = max_bytes

    def folder(self, digest: str) -> Path:
        """Return the folder of a whole release."""
        return self._folder / digest[:NAME_CHARS]

    def read(self, digest: str) -> Release:
        """Read a whole release's manifest, which was verified when it was stored."""
        with _translate_errors():
            data = (self.folder(digest) / MANIFEST_NAME).read_bytes()
        if chunks.sha256(data) != digest:
            raise DeviceError("store-failed", f"the manifest of release {digest[:12]} is damaged", "check the disk")
        return Release(digest=digest, manifest_bytes=data, manifest=manifests.decode(data))

    def is_readable(self, digest: str) -> bool:
        """Return whether `read` can read a release's manifest."""
        try:
            self.read(digest)
        except EdgemlError:
            return False
        return True

    def begin(self, release: Release, keep: Collection[str]) -> PartialRelease:
        """Make room for a release and open its folder, with the chunks that it has.

        Args:
            keep: digests of the releases that must stay.

        Raises:
            DeviceError: `disk-full`, when there is no room even without the releases that may go.
        """
        self.collect({*keep, release.digest})
        folder = self.folder(release.digest)
        if not folder.is_dir():
            folder = self._partial(release.digest)
            try:
                self._check_room(release, folder)
            except DeviceError:
                self._discard_tuning()
                self._check_room(release, folder)
        with _translate_errors():  # of a whole release, too: the disk may have lost some of it
            for entry in release.manifest.files:
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            files.write(folder / MANIFEST_NAME, release.manifest_bytes)
        return PartialRelease(folder, release)

    def reuse(self, partial: PartialRelease, missing: Sequence[str], held: Collection[str]) -> list[str]:
        """Copy chunks of whole releases into a partial one, and return the digests that are still missing."""
        left = dict.fromkeys(missing)
        for digest in held:
            for entry in self.read(digest).manifest.files:
                if left.keys() & set(entry.chunks):
                    with contextlib.suppress(OSError):  # what can't be read is fetched
                        for chunk in _read_chunks(self.folder(digest) / entry.path):
                            if (found := chunks.sha256(chunk)) in left:
                                partial.put(found, chunk)
                                del left[found]
        return list(left)

    def bases(self, release: Release, held: Collection[str]) -> DeltaBases:
        """Return the delta bases that the whole releases `held` have for a release."""
        bases = DeltaBases(release.manifest)
        for digest in held:
            bases.add(self.folder(digest), self.read(digest).manifest)
        return bases

    def finish(self, partial: PartialRelease) -> Path:
        """Rename a verified release's folder; on return it survives a power cut."""
        whole = self.folder(partial.release.digest)
        if partial.folder != whole:
            with _translate_errors():
                files.sync_tree(partial.folder)
                partial.folder.replace(whole)
                files.sync(self._folder)
        return whole

    def collect(self, keep: Collection[str]) -> None:
        """Remove all releases, whole or partial, except those in `keep`; one that can't be removed is tried again."""
        names = {digest[:NAME_CHARS] for digest in keep}
        with _translate_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            folders = sorted(self._folder.iterdir(), key=lambda folder: folder.suffix != _TRASH)
        for folder in folders:
            if folder.name.removesuffix(PARTIAL_SUFFIX) not in names:
                try:
                    _remove(folder)
                except DeviceError as error:
                    log.failure("old release stays", error)  # a damaged folder must not keep updates away

    def _partial(self, digest: str) -> Path:
        return self._folder / f"{digest[:NAME_CHARS]}{PARTIAL_SUFFIX}"

    def _discard_tuning(self) -> None:
        """Remove what the device can make again: tuned models go before an update fails."""
        for whole in self._folder.iterdir():
            tuning.discard(whole)

    def _check_room(self, release: Release, partial: Path) -> None:
        manifest = release.manifest
        with _translate_errors():
            here, used = _size(partial), _size(self._folder)
            free = shutil.disk_usage(self._folder).free
        needed = max(manifest.size_bytes, manifest.needs.disk_bytes) - here
        hint = "free disk space, or raise [store] max_bytes in agent.toml"
        if used + needed > self._max_bytes:
            message = (
                f"{manifest.stem} needs {needed} bytes beside the {used} in use; [store] max_bytes is {self._max_bytes}"
            )
            raise DeviceError("disk-full", message, hint)
        if needed + RESERVE_BYTES > free:
            message = f"{manifest.stem} needs {needed} bytes and {RESERVE_BYTES} in reserve; the disk has {free} free"
            raise DeviceError("disk-full", message, hint)


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as content:
        while chunk := content.read(chunks.CHUNK_BYTES):
            yield chunk


def _remove(folder: Path) -> None:
    """Remove a folder, renamed first: a half removed one must not look whole after a power cut."""
    with _translate_errors():
        shutil.rmtree(folder if folder.suffix == _TRASH else folder.rename(folder.with_suffix(_TRASH)))


def _sha256(path: Path) -> str:
    with _translate_errors(), path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_at(path: Path, offset: int, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        while data:  # before a disk is full it takes a part, without an error
            written = os.pwrite(handle, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(handle)


def _size(folder: Path) -> int:
    """Return the bytes that the files below `folder` take on the disk; holes and what can't be read count nothing."""
    used = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                used += Path(inner, name).stat().st_blocks * 512
    return used


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {ENOSPC, EDQUOT}:
            raise DeviceError("disk-full", f"the disk is full: {error}", "free disk space") from error
        raise DeviceError("store-failed", f"the store failed: {error}", "check that [store] dir is writable") from error
