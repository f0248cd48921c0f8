"""The repository's chunks, each stored once under its id (`edgeml_core.wire_keys`): in a folder, or in `bucket`.

Chunks are stored as they are sent (`edgeml_core.chunks.to_wire`): compressed once, when they are published. The origin
only copies bytes, and in a folder the system's page cache is the only cache. Each chunk that is read is verified.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError
from edgeml_io import files

#: Chunks that are read or written together: 2 MiB.
BATCH_CHUNKS: Final = 32
_T = TypeVar("_T")


class StoredChunk(NamedTuple):
    """A chunk's id, the size of its payload, and when it was stored, in seconds since 1970."""

    chunk_id: str
    size_bytes: int
    stored_s: float


class Storage(Protocol):
    """Where payloads lie by the ids of their chunks. Several threads may call.

    Raises:
        TransportError: from each method of a storage elsewhere: `chunks-unreachable`, `chunks-refused`.
    """

    def read(self, chunk_ids: Sequence[str], max_bytes: int) -> list[bytes]:
        """Read payloads, or as many of their first bytes as are wanted; an empty one for a chunk that is absent."""
        ...

    def write(self, payloads: Mapping[str, bytes]) -> None:
        """Store payloads by id, and replace what is there."""
        ...

    def sync(self) -> None:
        """Return when all that was written survives a power cut."""
        ...

    def stored(self) -> list[StoredChunk]:
        """List all chunks."""
        ...

    def remove(self, chunk_ids: Iterable[str]) -> None:
        """Remove chunks."""
        ...


class ChunkStore:
    """Chunks in a storage. Each is stored once, also when several bundles have it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.stored = storage.stored
        self.remove = storage.remove

    def add(self, contents: Iterable[bytes]) -> int:
        """Store chunks; on return they survive a power cut.

        Returns:
            The bytes that were written; none for a chunk that was stored already and is intact.
        """
        written_bytes = 0
        for batch in _batches(contents):
            by_id = {wire_keys.chunk_id(chunks.sha256(chunk)): chunk for chunk in batch}
            found = zip(by_id, self._storage.read(list(by_id), chunks.WIRE_CHUNK_MAX_BYTES), strict=True)
            payloads = {key: chunks.to_wire(by_id[key]) for key, payload in found if not _is_intact(payload, key)}
            if payloads:
                self._storage.write(payloads)
            written_bytes += sum(map(len, payloads.values()))
        self._storage.sync()
        return written_bytes

    def wire(self, chunk_id: str) -> bytes:
        """Read one chunk as it is sent.

        Raises:
            RejectedError: `digest-mismatch`, when the chunk is missing or damaged. TransportError: see `Storage`.
        """
        return next(self._verified([chunk_id]))[0]

    def wires(self, chunk_ids: Iterable[str]) -> Iterator[bytes]:
        """Read many chunks as they are sent, in their order; the errors are those of `wire`."""
        return (payload for payload, _ in self._verified(chunk_ids))

    def chunk(self, chunk_id: str) -> bytes:
        """Read one chunk, decompressed; the errors are those of `wire`."""
        return next(self._verified([chunk_id]))[1]

    def missing(self, chunk_ids: Iterable[str]) -> list[str]:
        """Return those chunks that aren't stored; the content of the others isn't checked."""
        return [
            key
            for batch in _batches(chunk_ids)
            for key, first in zip(batch, self._storage.read(batch, 1), strict=True)
            if not first
        ]

    def _verified(self, chunk_ids: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
        """Read chunks as they are sent, each with its content."""
        for batch in _batches(chunk_ids):
            for key, payload in zip(batch, self._storage.read(batch, chunks.WIRE_CHUNK_MAX_BYTES), strict=True):
                if not payload:
                    raise RejectedError("digest-mismatch", f"chunk {key[:12]} can't be read from {self._storage}")
                yield payload, chunks.from_store(payload, key)


class Folder:
    """A folder with a file for each chunk, `ab/ab12...`. See `Storage`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsynced: set[Path] = set()

    def __str__(self) -> str:
        return str(self._folder)

    def read(self, chunk_ids: Sequence[str], max_bytes: int) -> list[bytes]:
        """See `Storage.read`."""
        return [self._read(it, max_bytes) for it in chunk_ids]

    def write(self, payloads: Mapping[str, bytes]) -> None:
        """See `Storage.write`."""
        for chunk_id, payload in payloads.items():
            path = self._path(chunk_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_unsynced(path, payload)
            self._unsynced |= {path.parent, self._folder}

    def sync(self) -> None:
        """See `Storage.sync`."""
        while self._unsynced:
            files.sync(self._unsynced.pop())

    def stored(self) -> list[StoredChunk]:
        """See `Storage.stored`."""
        paths = sorted(it for it in self._folder.glob("??/*") if not it.name.startswith("."))
        return [StoredChunk(path.name, it.st_size, it.st_mtime) for path, it in ((it, it.stat()) for it in paths)]

    def remove(self, chunk_ids: Iterable[str]) -> None:
        """See `Storage.remove`."""
        for chunk_id in chunk_ids:
            self._path(chunk_id).unlink()

    def _read(self, chunk_id: str, max_bytes: int) -> bytes:
        try:
            with self._path(chunk_id).open("rb") as file:
                return file.read(max_bytes)
        except OSError:
            return b""

    def _path(self, chunk_id: str) -> Path:
        return self._folder / chunk_id[:2] / chunk_id


def _is_intact(payload: bytes, chunk_id: str) -> bool:
    try:
        chunks.from_store(payload, chunk_id)
    except RejectedError:
        return False
    return True


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    left = iter(items)
    while batch := list(itertools.islice(left, BATCH_CHUNKS)):
        yield batch
