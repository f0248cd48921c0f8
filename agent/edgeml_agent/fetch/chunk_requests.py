"""The wire key of each chunk, and the chunk in each answer.

Where this device has a chunk at the same place of the version before, it requests the delta to that chunk. It requests
the whole chunk where it has none, and after a delta was wrong or didn't arrive. The window and the timeouts are left to
`window`. Chunks of a release that is encrypted for a group have ids that only the group can compute. No answer is
trusted: a chunk has the requested digest, or is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from edgeml_agent.ports import Arrival
from edgeml_agent.store.releases import DeltaBases
from edgeml_core import chunks, wire_keys
from edgeml_core.sealing import Seal

#: Requests of a delta without an answer after which all deltas are given up, while none has arrived yet: the origin may
#: not have this device's version.
DELTA_TRIES: Final = 2
#: The same for one delta after others have arrived: it is lost or late, as a whole chunk would be, which costs more.
LATER_DELTA_TRIES: Final = 4


class ChunkRequests:
    """The wire keys of one fetch.

    Args:
        bases: the chunks of the version before, for deltas.
        seal: the encryption of the release's group; None for a release that isn't encrypted.
    """

    def __init__(self, bases: DeltaBases, seal: Seal | None = None) -> None:
        self._bases = bases
        self._seal = seal
        #: Returns the id of a chunk by its digest.
        self.chunk_id: Callable[[str], str] = seal.chunk_id if seal else wire_keys.chunk_id
        self._digests: dict[str, str] = {}
        self._has_delta = False
        self._without_deltas = False
        self._tries: Counter[str] = Counter()

    def key(self, digest: str) -> str:
        """Return the wire key by which to request a chunk."""
        whole = self._without_deltas or self._tries[digest] >= LATER_DELTA_TRIES
        base = "" if whole else self._bases.digest(digest)
        key = wire_keys.join(self.chunk_id(digest), self.chunk_id(base) if base else "")
        self._digests[key] = digest
        return key

    def digest(self, key: str) -> str:
        """Return the digest of the chunk that was requested by `key`; empty for another key."""
        return self._digests.get(key, "")

    def chunk(self, arrival: Arrival) -> bytes:
        """Return the chunk in an answer. Reads the disk for a delta.

        Raises:
            RejectedError: `digest-mismatch`, when it doesn't have the requested digest. DeviceError: the disk fails.
        """
        digest = self._digests[arrival.key]
        payload = self._seal.open(arrival.payload, arrival.key) if self._seal else arrival.payload
        chunk = chunks.from_wire(payload, digest, self._bases.read(digest))
        self._has_delta |= wire_keys.has_base(arrival.key)
        return chunk

    def on_loss(self, key: str) -> None:
        """Count a request that got no answer."""
        digest = self._digests[key]
        self._tries[digest] += 1
        self._without_deltas |= not self._has_delta and self._tries[digest] >= DELTA_TRIES

    def on_refusal(self, key: str) -> None:
        """Request the whole chunk after a wrong answer: another delta would be wrong, too."""
        self._tries[self._digests[key]] = LATER_DELTA_TRIES
