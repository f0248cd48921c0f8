"""The host's answers to wire keys: whole chunks as they lie in the repository, differences made when first asked for.

Each difference is made once for all who ask for it, and kept while there is room. What is asked for by a sealed id is
encrypted for its group. When to answer is `edgeml_origin`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Final

from edgeml.repository.chunk_ids import Sealed
from edgeml.repository.store import ChunkStore
from edgeml_core import chunks, wire_keys
from edgeml_core.errors import RejectedError

#: At 2 to 8 KB each, the differences between several versions of a 400 MB model.
KEPT_MAX_BYTES: Final = 64 * 1024**2


class Answers:
    """See `edgeml_origin.origin.Store`. Several threads may ask."""

    def __init__(self, store: ChunkStore, kept_max_bytes: int = KEPT_MAX_BYTES) -> None:
        self._store = store
        self._kept_max_bytes = kept_max_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = Lock()
        self._sealed: Mapping[str, Sealed] = {}

    def use(self, sealed: Mapping[str, Sealed]) -> None:
        """From now on know these sealed ids."""
        self._sealed = sealed

    def wire(self, key: str) -> bytes:
        """See `edgeml_origin.origin.Store`; the whole chunk where its base is lost or damaged."""
        chunk, *bases = (self._sealed.get(chunk_id) for chunk_id in wire_keys.ids(key))
        if chunk is None:
            return self._plain(key)
        # A base of another group is as good as none.
        known = [base.chunk_id for base in bases if base is not None and base.seal is chunk.seal]
        return chunk.seal.close(self._plain(wire_keys.join(chunk.chunk_id, *known)), key)

    def _plain(self, key: str) -> bytes:
        if not wire_keys.has_base(key):
            return self._store.wire(key)
        with self._lock:
            if kept := self._kept.get(key):
                self._kept.move_to_end(key)
                return kept
        payload = self._difference(*wire_keys.ids(key))
        self._keep(key, payload)
        return payload

    def _difference(self, chunk_id: str, base_id: str) -> bytes:
        chunk = self._store.chunk(chunk_id)
        try:
            return chunks.to_wire_from(self._store.chunk(base_id), chunk)
        except RejectedError:
            return chunks.to_wire(chunk)

    def _keep(self, key: str, payload: bytes) -> None:
        with self._lock:
            self._kept_bytes += len(payload) - len(self._kept.pop(key, b""))
            self._kept[key] = payload
            while self._kept_bytes > self._kept_max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._kept_bytes -= len(oldest)
