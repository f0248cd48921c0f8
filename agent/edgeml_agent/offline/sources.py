"""Sources without a network: a repository's folder on a stick, or a bundle in a file.

Both implement the ports of the link, and their content is verified in the same way. A chunk that is missing or damaged
on a stick is a transport error: it says nothing against the release. Only regular files of bounded length are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

from edgeml_agent.ports import Arrival, TrustSource
from edgeml_core import chunks, records, sealing, trust, wire_keys
from edgeml_core.bundle import BundleReader
from edgeml_core.errors import RejectedError, TransportError
from edgeml_core.manifest import MANIFEST_MAX_BYTES
from edgeml_io import files

#: Folder of the chunks in a repository.
CHUNKS_DIR: Final = "chunks"
#: Bytes of a chunk's file: an encrypted one has some 300 more than a chunk.
CHUNK_FILE_MAX_BYTES: Final = chunks.CHUNK_BYTES + 4096
#: Codec byte of an uncompressed wire chunk (`edgeml_core.chunks`).
_RAW: Final = b"\x00"


class FolderFiles:
    """A repository's folder as a `TrustSource`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        is_metadata = file.startswith(f"{trust.METADATA_DIR}/")
        try:
            limit = trust.METADATA_MAX_BYTES if is_metadata else MANIFEST_MAX_BYTES
            return files.read_regular(self._folder / repo / file, limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self._folder / repo / file, error) from error

    def record(self, device: str) -> bytes | None:
        """See `TrustSource.record`."""
        path = self._folder / records.RECORDS_DIR / records.file_of(device)
        try:
            return records.find(files.read_regular(path, records.RECORDS_FILE_MAX_BYTES), device)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error

    def site(self, site: str) -> None:
        """See `TrustSource.site`; a relay has no stick."""


def _unreadable(path: Path, error: OSError) -> TransportError:
    hint = "copy the repository to the stick again"
    return TransportError("trust-unavailable", f"{path} can't be read: {error.strerror}", hint)


class FolderTargets(FolderFiles):
    """A repository's folder beside newer metadata that this device trusts already, as a `TrustSource`."""

    def __init__(self, folder: Path, held: TrustSource) -> None:
        super().__init__(folder)
        self._held = held

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        if file.startswith(f"{trust.TARGETS_DIR}/"):
            return super().read(repo, file)
        return self._held.read(repo, file)

    def record(self, device: str) -> bytes | None:
        """See `TrustSource.record`."""
        return self._held.record(device)


class FolderChunks:
    """A repository's folder as a `ChunkSource`."""

    position = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CHUNKS_DIR
        self._requested: deque[Arrival] = deque()

    async def follow(self, release: str) -> None:
        """See `ChunkSource.follow`; a folder has no position."""

    async def want(self, keys: Collection[str]) -> None:
        """See `ChunkSource.want`.

        Raises:
            TransportError: `chunk-timeout`, when a chunk is missing or damaged.
        """
        for key in keys:
            # A request for a delta gets the whole chunk, since nothing here is slow.
            chunk_id, *_ = wire_keys.ids(key)
            path = self._folder / chunk_id[:2] / chunk_id
            try:
                payload = _undamaged(files.read_regular(path, CHUNK_FILE_MAX_BYTES), chunk_id)
            except (OSError, RejectedError) as error:
                message = f"chunk {chunk_id[:12]} is missing or damaged in {self._folder}"
                raise TransportError("chunk-timeout", message, "copy the repository to the stick again") from error
            self._requested.append(Arrival(key, payload))

    async def receive(self, timeout_s: float) -> Arrival | None:  # noqa: ARG002 - nothing arrives later
        """See `ChunkSource.receive`."""
        return self._requested.popleft() if self._requested else None

    async def drop(self, keys: Collection[str]) -> None:
        """See `ChunkSource.drop`."""


def _undamaged(kept: bytes, chunk_id: str) -> bytes:
    if sealing.is_sealed(kept):
        return sealing.from_disk(kept)
    chunks.from_store(kept, chunk_id)
    return kept


class BundleFiles:
    """A bundle's manifest, beside the metadata that this device trusts already, as a `TrustSource`."""

    def __init__(self, bundle: BundleReader, held: TrustSource) -> None:
        self._bundle = bundle
        self._held = held

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        if file.startswith(f"{trust.TARGETS_DIR}/"):
            return self._bundle.manifest_bytes
        return self._held.read(repo, file)

    def record(self, device: str) -> bytes | None:
        """See `TrustSource.record`."""
        return self._held.record(device)

    def site(self, site: str) -> None:
        """See `TrustSource.site`."""


class BundleChunks:
    """A bundle as a `ChunkSource`: the requested chunks, in the bundle's order."""

    position = ""

    def __init__(self, bundle: BundleReader) -> None:
        #: Requested keys by chunk id. A request for a delta gets the whole chunk.
        self._wanted: dict[str, str] = {}
        self._chunks = (
            (wire_keys.chunk_id(digest), chunk)
            for entry in bundle.manifest.files
            for digest, chunk in zip(entry.chunks, bundle.chunks(entry), strict=True)
        )

    async def follow(self, release: str) -> None:
        """See `ChunkSource.follow`; a folder has no position."""

    async def want(self, keys: Collection[str]) -> None:
        """See `ChunkSource.want`."""
        self._wanted |= {wire_keys.ids(key)[0]: key for key in keys}

    async def receive(self, timeout_s: float) -> Arrival | None:  # noqa: ARG002 - nothing arrives later
        """See `ChunkSource.receive`. Chunks are requested in the order of the files, so none is skipped too early."""
        for chunk_id, chunk in self._chunks:
            if key := self._wanted.get(chunk_id):
                return Arrival(key, _RAW + chunk)
        return None

    async def drop(self, keys: Collection[str]) -> None:
        """See `ChunkSource.drop`."""
        for key in keys:
            self._wanted.pop(wire_keys.ids(key)[0], None)
