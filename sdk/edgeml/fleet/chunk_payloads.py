"""The host's payloads for wire keys: whole chunks from the repository, and deltas, computed at the first request.

A delta is computed once for all devices that want it, and cached while there is room. It costs tens of ms, so it is
computed only where it can help: between the chunks at one place of two versions. Any other key with a base is answered
by the whole chunk. A payload for a sealed id is encrypted for its group. The time of an answer is left to
`edgeml_origin`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Final

from edgeml.repository.chunk_ids import Location, Sealed
from edgeml.repository.store import ChunkStore
from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError

#: Bytes of cached deltas: at 2 to 8 KB each, those between several versions of a 400 MB model.
CACHE_MAX_BYTES: Final = 64 * 1024**2


class ChunkPayloads:
    """See `edgeml_origin.origin.Store`. Several threads may call."""

    def __init__(self, store: ChunkStore, cache_max_bytes: int = CACHE_MAX_BYTES) -> None:
        self._store = store
        self._cache_max_bytes = cache_max_bytes
        self._cached: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()
        self._sealed: Mapping[str, Sealed] = {}
        self._locations: Mapping[str, Location] = {}

    def use(self, sealed: Mapping[str, Sealed], locations: Mapping[str, Location]) -> None:
        """Replace the known sealed ids, and the known locations of plain ids."""
        self._sealed, self._locations = sealed, locations

    def wire(self, key: str) -> bytes:
        """See `edgeml_origin.origin.Store`; a chunk whose base is missing or damaged is returned whole."""
        chunk, *bases = (self._sealed.get(chunk_id) for chunk_id in wire_keys.ids(key))
        if chunk is None:
            return self._plain(key)
        # A device of this group can't have a base of another group.
        known = [base.chunk_id for base in bases if base is not None and base.seal is chunk.seal]
        return chunk.seal.close(self._plain(wire_keys.join(chunk.chunk_id, *known)), key)

    def _plain(self, key: str) -> bytes:
        chunk_id, *bases = wire_keys.ids(key)
        if not any(self._have_one_location(chunk_id, base) for base in bases):
            return self._store.wire(chunk_id)
        with self._lock:
            if cached := self._cached.get(key):
                self._cached.move_to_end(key)
                return cached
        payload = self._delta(chunk_id, *bases)
        self._cache(key, payload)
        return payload

    def _have_one_location(self, chunk_id: str, base_id: str) -> bool:
        location = self._locations.get(chunk_id)
        return location is not None and location == self._locations.get(base_id)

    def _delta(self, chunk_id: str, base_id: str) -> bytes:
        chunk = self._store.chunk(chunk_id)
        try:
            return chunks.to_wire_from(self._store.chunk(base_id), chunk)
        except RejectedError:
            return chunks.to_wire(chunk)

    def _cache(self, key: str, payload: bytes) -> None:
        with self._lock:
            self._cached_bytes += len(payload) - len(self._cached.pop(key, b""))
            self._cached[key] = payload
            while self._cached_bytes > self._cache_max_bytes:
                _, oldest = self._cached.popitem(last=False)
                self._cached_bytes -= len(oldest)
