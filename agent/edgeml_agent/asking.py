"""How each chunk is asked for, and what an answer is: a wire key out, the chunk in.

The window and the patience are `fetch`'s. No answer is trusted: a chunk has the digest asked for, or is refused.
"""

from __future__ import annotations

from edgeml_agent.ports import Arrival
from edgeml_core import chunks, wirekeys


class Asking:
    """The keys of one fetch."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def key(self, digest: str) -> str:
        """The key to want a chunk by."""
        key = wirekeys.chunk_id(digest)
        self._digests[key] = digest
        return key

    def digest(self, key: str) -> str:
        """Which chunk was asked for by `key`; empty for a key that wasn't."""
        return self._digests.get(key, "")

    def chunk(self, arrival: Arrival) -> bytes:
        """The chunk in an answer. May read the disk.

        Raises:
            RejectedError: `digest-mismatch`, when it doesn't have the digest asked for.
        """
        return chunks.from_wire(arrival.payload, self._digests[arrival.key])
