"""How each chunk is asked for, and what an answer is: a wire key out, the chunk in.

Where this device has a chunk at the same place of the version before, the difference to that one is asked for; the
whole chunk where it hasn't, and when a difference was wrong or didn't come. The window and the patience are `fetch`'s.
No answer is trusted: a chunk has the digest asked for, or is refused.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from edgeml_agent.ports import Arrival
from edgeml_agent.releases import Bases
from edgeml_core import chunks, wirekeys

#: A difference that so often didn't come is given up; when it is the first of all, all are: the other side may not know
#: what this device has.
DIFFERENCE_TRIES: Final = 2


class Asking:
    """The keys of one fetch."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases
        self._digests: dict[str, str] = {}
        self._came = False
        self._given_up = False
        self._tries: Counter[str] = Counter()

    def key(self, digest: str) -> str:
        """The key to want a chunk by."""
        whole = self._given_up or self._tries[digest] >= DIFFERENCE_TRIES
        base = "" if whole else self._bases.digest(digest)
        key = wirekeys.join(wirekeys.chunk_id(digest), wirekeys.chunk_id(base))
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
        chunk = chunks.from_wire(arrival.payload, digest, self._bases.read(digest))
        self._came |= wirekeys.has_base(arrival.key)
        return chunk

    def unanswered(self, key: str) -> None:
        """No answer came to a key."""
        digest = self._digests[key]
        self._tries[digest] += 1
        self._given_up |= not self._came and self._tries[digest] >= DIFFERENCE_TRIES

    def refused(self, key: str) -> None:
        """The answer to a key was wrong: another difference would be, too."""
        self._tries[self._digests[key]] = DIFFERENCE_TRIES
