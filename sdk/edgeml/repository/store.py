"""The repository's chunks: one file each, named by the chunk's id (`edgeml_core.wire_keys`), `ab/ab12...`.

Chunks are stored as they are sent (`edgeml_core.chunks.to_wire`): compressed once, when they are published. The origin
only copies bytes, and the system's page cache is the only cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError
from edgeml_io import files


class ChunkStore:
    """Chunks in a folder. Each is stored once, also when several bundles have it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, contents: Iterable[bytes]) -> int:
        """Store chunks; on return they survive a power cut.

        Returns:
            The bytes that were written; none for a chunk that was stored already and is intact.
        """
        written_bytes, folders = 0, set()
        for chunk in contents:
            key = wire_keys.chunk_id(chunks.sha256(chunk))
            if self._holds(key):
                continue
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            payload = chunks.to_wire(chunk)
            files.write_unsynced(path, payload)
            folders.add(path.parent)
            written_bytes += len(payload)
        for folder in folders | {self._folder}:
            files.sync(folder)
        return written_bytes

    def wire(self, chunk_id: str) -> bytes:
        """Read one chunk as it is sent.

        Raises:
            RejectedError: `digest-mismatch`, when the file is missing or damaged.
        """
        payload = self._read(chunk_id)
        chunks.from_store(payload, chunk_id)
        return payload

    def chunk(self, chunk_id: str) -> bytes:
        """Read one chunk, decompressed.

        Raises:
            RejectedError: `digest-mismatch`, when the file is missing or damaged.
        """
        return chunks.from_store(self._read(chunk_id), chunk_id)

    def files(self) -> list[Path]:
        """List the files of all chunks; the name of each is the chunk's id."""
        return sorted(it for it in self._folder.glob("??/*") if not it.name.startswith("."))

    def has(self, chunk_id: str) -> bool:
        """Return whether a chunk has a file; its content isn't checked."""
        return self._path(chunk_id).is_file()

    def _read(self, chunk_id: str) -> bytes:
        path = self._path(chunk_id)
        try:
            return path.read_bytes()
        except OSError as error:
            raise RejectedError("digest-mismatch", f"chunk {chunk_id[:12]} can't be read from {path}") from error

    def _holds(self, key: str) -> bool:
        try:
            self.wire(key)
        except RejectedError:
            return False
        return True

    def _path(self, chunk_id: str) -> Path:
        return self._folder / chunk_id[:2] / chunk_id
