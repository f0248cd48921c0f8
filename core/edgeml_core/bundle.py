"""The bundle: a deterministic ZIP of a manifest and the files it lists. Format: docs/bundle-format.md.

Members are stored uncompressed, manifest first, then by path, with one fixed time and no extra fields. So the same
input gives the same bytes. Reading is strict: members that the manifest doesn't list as they are, are refused. Signing
is left to repositories, which sign manifests (`edgeml publish`).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

from edgeml_core import chunks
from edgeml_core import manifest as manifests
from edgeml_core.errors import RejectedError
from edgeml_core.manifest import MANIFEST_NAME, FileEntry, Manifest

BUNDLE_SUFFIX: Final = ".edgeml"
#: ZIP's earliest time.
_FIXED_TIME: Final = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
#: Exceptions of zipfile for an archive that is truncated, encrypted or contradicts itself.
_ZIP_ERRORS: Final = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)


def describe(path: str, content: BinaryIO) -> FileEntry:
    """Read `content` once, a chunk at a time, and return the manifest's entry for it."""
    whole, digests, size_bytes = hashlib.sha256(), [], 0
    while chunk := content.read(chunks.CHUNK_BYTES):
        whole.update(chunk)
        digests.append(chunks.sha256(chunk))
        size_bytes += len(chunk)
    return FileEntry(path=path, size_bytes=size_bytes, sha256=whole.hexdigest(), chunks=tuple(digests))


def write(destination: BinaryIO, manifest: Manifest, files: Mapping[str, BinaryIO]) -> None:
    """Write a bundle.

    Args:
        destination: the file to write; left open.
        manifest: must list exactly `files`, with their digests.
        files: the content by path; each is read once, from its start.
    """
    with zipfile.ZipFile(destination, "w", allowZip64=True) as archive:
        archive.writestr(_member(MANIFEST_NAME), manifests.encode(manifest))
        for entry in manifest.files:
            content = files[entry.path]
            content.seek(0)
            member = _member(entry.path)
            member.file_size = entry.size_bytes
            with archive.open(member, "w") as out:
                while chunk := content.read(chunks.CHUNK_BYTES):
                    out.write(chunk)


def _member(path: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(path, date_time=_FIXED_TIME)
    member.create_system = _UNIX
    member.external_attr = _REGULAR_FILE_MODE
    return member


class BundleReader:
    """An open bundle: its manifest, and the verified chunks of its files.

    Args:
        source: a seekable file; must stay open while the reader is used.

    Raises:
        RejectedError: `bundle-format`, when it is not a ZIP as `write` makes it, or its manifest is malformed.
    """

    def __init__(self, source: BinaryIO) -> None:
        try:
            self._archive = zipfile.ZipFile(source)
            self.manifest_bytes = self._read_manifest()
        except _ZIP_ERRORS as error:
            raise RejectedError("bundle-format", f"not a bundle: {error}") from error
        self.manifest = manifests.decode(self.manifest_bytes)
        self._check_members()

    @property
    def manifest_sha256(self) -> str:
        """The release's identity."""
        return chunks.sha256(self.manifest_bytes)

    def chunks(self, entry: FileEntry) -> Iterator[bytes]:
        """Yield the chunks of one file, each verified against its digest before.

        Raises:
            RejectedError: `digest-mismatch`, at the first chunk that differs.
        """
        try:
            with self._archive.open(entry.path) as content:
                for digest in entry.chunks:
                    chunk = content.read(chunks.CHUNK_BYTES)
                    if chunks.sha256(chunk) != digest:
                        raise RejectedError("digest-mismatch", f"{entry.path!r} in the bundle has other content")
                    yield chunk
        except _ZIP_ERRORS as error:
            raise RejectedError("digest-mismatch", f"{entry.path!r} in the bundle is damaged: {error}") from error

    def read(self, path: str) -> bytes:
        """Return the whole verified content of one file.

        Raises:
            RejectedError: `bundle-format` when the bundle has no such file, `digest-mismatch` when it is damaged.
        """
        for entry in self.manifest.files:
            if entry.path == path:
                return b"".join(self.chunks(entry))
        raise RejectedError("bundle-format", f"the bundle has no file {path!r}")

    def _read_manifest(self) -> bytes:
        member = self._archive.infolist()[0] if self._archive.infolist() else None
        if member is None or member.filename != MANIFEST_NAME:
            raise RejectedError("bundle-format", f"not a bundle: the first member is not {MANIFEST_NAME}")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > manifests.MANIFEST_MAX_BYTES:
            raise RejectedError("bundle-format", "the bundle's manifest is compressed or too long")
        return self._archive.read(member)

    def _check_members(self) -> None:
        members = self._archive.infolist()[1:]
        if [member.filename for member in members] != [entry.path for entry in self.manifest.files]:
            raise RejectedError("bundle-format", "the bundle's members are not the files that its manifest lists")
        for member, entry in zip(members, self.manifest.files, strict=True):
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != entry.size_bytes:
                raise RejectedError("bundle-format", f"member {entry.path!r} is compressed or has the wrong size")
