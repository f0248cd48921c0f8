"""The releases' files: a folder each, fetched into place chunk by chunk, renamed once all of it is verified.

    releases/START-OF-DIGEST.partial/   being fetched: manifest.json and the files, each chunk at its place
    releases/START-OF-DIGEST/           whole and verified, since only `finish` renames

What a partial folder holds is found by hashing it: there is no list of held chunks that could be lost, stale or wrong,
and a chunk that reached the disk is never fetched again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

import msgspec

from edgeml_agent.store import tuning
from edgeml_core import chunks
from edgeml_core import manifest as manifests
from edgeml_core.errors import DeviceError, RejectedError
from edgeml_core.manifest import MANIFEST_NAME, Manifest
from edgeml_io import files

FOLDER_NAME: Final = "releases"
#: 128 bits of the digest: no two releases share them, and paths stay readable.
NAME_CHARS: Final = 32
#: What must stay free on the disk for logs, the database and whatever else lives there.
RESERVE_BYTES: Final = 32 * 1024**2
#: A power cut costs at most so many chunks: 4 MiB.
SYNC_EVERY_CHUNKS: Final = 64
PARTIAL_SUFFIX: Final = ".partial"
_TRASH: Final = ".trash"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release: `digest` is the SHA-256 of `manifest_bytes`."""

    digest: str
    manifest_bytes: bytes
    manifest: Manifest


class Partial:
    """A release on its way to the disk. One thread at a time may call."""

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
        """The digests of the chunks that are not here, in the order of the files; reads all that is."""
        missing: dict[str, None] = {}
        with _translated():
            for entry in self.release.manifest.files:
                held = [chunks.sha256(piece) for piece in _pieces(self.folder / entry.path)]
                held += [""] * (len(entry.chunks) - len(held))
                missing |= {want: None for want, have in zip(entry.chunks, held, strict=False) if want != have}
        return list(missing)

    def size_of(self, digests: Sequence[str]) -> int:
        """How many bytes the places of these chunks have."""
        wanted = set(digests)
        return sum(
            chunks.length(entry.size_bytes, index)
            for entry in self.release.manifest.files
            for index, digest in enumerate(entry.chunks)
            if digest in wanted
        )

    def put(self, digest: str, chunk: bytes) -> int:
        """Write a verified chunk to all its places; how many bytes those are."""
        with _translated():
            for path, index in self._places[digest]:
                _write_at(path, index * chunks.CHUNK_BYTES, chunk)
                self._unsynced.add(path)
        self._unsynced_chunks += 1
        if self._unsynced_chunks >= SYNC_EVERY_CHUNKS:
            self.sync()
        return len(chunk) * len(self._places[digest])

    def sync(self) -> None:
        """Make what was put survive a power cut."""
        with _translated():
            for path in self._unsynced:
                files.sync(path)
        self._unsynced.clear()
        self._unsynced_chunks = 0

    def verify(self) -> None:
        """Hold every file on the disk to its SHA-256.

        Raises:
            RejectedError: `digest-mismatch`, when the manifest contradicts itself: right chunks, wrong file.
            DeviceError: `store-failed`, when the disk didn't keep what was written.
        """
        for entry in self.release.manifest.files:
            if _sha256(self.folder / entry.path) == entry.sha256:
                continue
            if lost := len(self.missing()):
                message = f"the disk didn't keep {lost} chunks of {self.release.manifest.stem}"
                raise DeviceError("store-failed", message, "check the disk; SD cards wear out")
            message = f"{entry.path!r} of {self.release.manifest.stem} isn't what its manifest lists"
            raise RejectedError("digest-mismatch", message, "export and publish the model under a new version")


class Bases:
    """What differences can be made to: the chunks of whole releases at the places of another's."""

    def __init__(self, wanted: Manifest) -> None:
        self._wanted = wanted
        self._places: dict[str, tuple[str, Path, int]] = {}

    def add(self, folder: Path, held: Manifest) -> None:
        """Take the chunks of the release in `folder`."""
        files = {entry.path: entry.chunks for entry in held.files}
        for entry in self._wanted.files:
            for index, (digest, base) in enumerate(zip(entry.chunks, files.get(entry.path, ()), strict=False)):
                self._places[digest] = (base, folder / entry.path, index)

    def digest(self, wanted: str) -> str:
        """The digest of the chunk at the place of `wanted`; empty where there is none."""
        return self._places[wanted][0] if wanted in self._places else ""

    def read(self, wanted: str) -> bytes:
        """The chunk at the place of `wanted`, as it is on the disk; nothing where there is none."""
        if wanted not in self._places:
            return b""
        _, path, index = self._places[wanted]
        with _translated(), path.open("rb") as content:
            content.seek(index * chunks.CHUNK_BYTES)
            return content.read(chunks.CHUNK_BYTES)


class Releases:
    """All releases in one folder.

    Raises:
        DeviceError: `store-failed`, from every method, when the files can't be read or written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder / FOLDER_NAME
        self._max_bytes = max_bytes

    def folder(self, digest: str) -> Path:
        """Where a whole release lies."""
        return self._folder / digest[:NAME_CHARS]

    def read(self, digest: str) -> Release:
        """A whole release's manifest, as it was verified."""
        with _translated():
            data = (self.folder(digest) / MANIFEST_NAME).read_bytes()
        if chunks.sha256(data) != digest:
            raise DeviceError("store-failed", f"the manifest of release {digest[:12]} is damaged", "check the disk")
        return Release(digest=digest, manifest_bytes=data, manifest=manifests.decode(data))

    def begin(self, release: Release, keep: Collection[str]) -> Partial:
        """Make room for a release and open its folder, with all that it held before.

        Args:
            keep: digests of the releases that must stay.

        Raises:
            DeviceError: `disk-full`, when there is no room even without the releases that may go.
        """
        self.collect({*keep, release.digest})
        whole = self.folder(release.digest)
        if whole.is_dir():
            return Partial(whole, release)
        partial = self._partial(release.digest)
        try:
            self._require_room(release, partial)
        except DeviceError:
            self._forget_tuned()
            self._require_room(release, partial)
        with _translated():
            for entry in release.manifest.files:
                path = partial / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            files.write(partial / MANIFEST_NAME, release.manifest_bytes)
        return Partial(partial, release)

    def reuse(self, partial: Partial, missing: Sequence[str], held: Collection[str]) -> list[str]:
        """Copy what whole releases have of a partial one; what is still missing."""
        left = dict.fromkeys(missing)
        for digest in held:
            manifest = self.read(digest).manifest
            for entry in manifest.files:
                for chunk in _pieces(self.folder(digest) / entry.path) if left.keys() & set(entry.chunks) else ():
                    if (found := chunks.sha256(chunk)) in left:
                        partial.put(found, chunk)
                        del left[found]
        return list(left)

    def bases(self, release: Release, held: Collection[str]) -> Bases:
        """What the whole releases `held` have at the places of a release's chunks."""
        bases = Bases(release.manifest)
        for digest in held:
            bases.add(self.folder(digest), self.read(digest).manifest)
        return bases

    def finish(self, partial: Partial) -> Path:
        """Give a verified release its place; on return it survives a power cut."""
        whole = self.folder(partial.release.digest)
        if partial.folder != whole:
            with _translated():
                files.sync_tree(partial.folder)
                partial.folder.replace(whole)
                files.sync(self._folder)
        return whole

    def collect(self, keep: Collection[str]) -> None:
        """Remove all releases, whole or partial, but those in `keep`."""
        names = {digest[:NAME_CHARS] for digest in keep}
        with _translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            for folder in sorted(self._folder.iterdir(), key=lambda folder: folder.suffix != _TRASH):
                if folder.name.removesuffix(PARTIAL_SUFFIX) not in names:
                    # Renamed first: a folder half removed must not look whole after a power cut.
                    trash = folder if folder.suffix == _TRASH else folder.rename(folder.with_suffix(_TRASH))
                    shutil.rmtree(trash)

    def _partial(self, digest: str) -> Path:
        return self._folder / f"{digest[:NAME_CHARS]}{PARTIAL_SUFFIX}"

    def _forget_tuned(self) -> None:
        """What the device made of releases for itself goes before an update fails: it can be made again."""
        for whole in self._folder.iterdir():
            tuning.discard(whole)

    def _require_room(self, release: Release, partial: Path) -> None:
        manifest = release.manifest
        with _translated():
            here, used = _size(partial), _size(self._folder)
            free = shutil.disk_usage(self._folder).free
        needed = max(manifest.size_bytes, manifest.needs.disk_bytes) - here
        hint = "free some space, or raise [store] max_bytes in agent.toml"
        if used + needed > self._max_bytes:
            message = f"{manifest.stem} needs {needed} bytes more than the {used} in use; {self._max_bytes} are allowed"
            raise DeviceError("disk-full", message, hint)
        if needed + RESERVE_BYTES > free:
            message = f"{manifest.stem} needs {needed} bytes and {RESERVE_BYTES} in reserve; the disk has {free} free"
            raise DeviceError("disk-full", message, hint)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as content:
        while piece := content.read(chunks.CHUNK_BYTES):
            yield piece


def _sha256(path: Path) -> str:
    with _translated(), path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_at(path: Path, offset: int, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(handle, data, offset)
    finally:
        os.close(handle)


def _size(folder: Path) -> int:
    """The bytes that the files below `folder` take on the disk: holes count nothing."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {ENOSPC, EDQUOT}:
            raise DeviceError("disk-full", f"the disk is full: {error}", "free some space") from error
        raise DeviceError("store-failed", f"the store failed: {error}", "check that [store] dir is writable") from error
