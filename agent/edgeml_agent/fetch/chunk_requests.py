"""How each chunk is asked for, and what an answer is: a wire key out, the chunk in.

Where this device has a chunk at the same place of the version before, the difference to that one is asked for; the
whole chunk where it hasn't, and when a difference was wrong or didn't come. The window and the patience are `fetch`'s.
Chunks of a release that is encrypted for a group are asked for by the names that only the group knows. No answer is
trusted: a chunk has the digest asked for, or is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from edgeml_agent.ports import Arrival
from edgeml_agent.store.releases import DeltaBases
from edgeml_core import chunks, wire_keys
from edgeml_core.sealing import Seal

#: A difference that so often didn't come is given up, and all others with it when none has come yet: the other side
#: may not know what this device has. Once some have come it does, and what doesn't come is lost or late: a whole chunk
#: would be, too, and costs many times as much.
DIFFERENCE_TRIES: Final = 2
LATER_TRIES: Final = 4


class ChunkRequests:
    """The keys of one fetch; `seal` is that of the release's group, if it is encrypted."""

    def __init__(self, bases: DeltaBases, seal: Seal | None = None) -> None:
        self._bases = bases
        self._seal = seal
        #: What a chunk is called, by its digest.
        self.chunk_id: Callable[[str], str] = seal.chunk_id if seal else wire_keys.chunk_id
        self._digests: dict[str, str] = {}
        self._came = False
        self._given_up = False
        self._tries: Counter[str] = Counter()

    def key(self, digest: str) -> str:
        """The key to want a chunk by."""
        whole = self._given_up or self._tries[digest] >= LATER_TRIES
        base = "" if whole else self._bases.digest(digest)
        key = wire_keys.join(self.chunk_id(digest), self.chunk_id(base) if base else "")
        self._digests[key] = digest
        return key

    def digest(self, key: str) -> str:
        """Which chunk was asked for by `key`; empty for a key that wasn't."""
        return self._digests.get(key, "")

    def chunk(self, arrival: Arrival) -> bytes:
        """The chunk in an answer. Reads the disk for a difference.

        Raises:
            RejectedError: `digest-mismatch`, when it doesn't have the digest asked for. DeviceError: the disk fails.
        """
        digest = self._digests[arrival.key]
        payload = self._seal.open(arrival.payload, arrival.key) if self._seal else arrival.payload
        chunk = chunks.from_wire(payload, digest, self._bases.read(digest))
        self._came |= wire_keys.has_base(arrival.key)
        return chunk

    def unanswered(self, key: str) -> None:
        """No answer came to a key."""
        digest = self._digests[key]
        self._tries[digest] += 1
        self._given_up |= not self._came and self._tries[digest] >= DIFFERENCE_TRIES

    def refused(self, key: str) -> None:
        """The answer to a key was wrong: another difference would be, too."""
        self._tries[self._digests[key]] = LATER_TRIES
