"""The receiver's window: which chunks are asked for when, and what is done with what arrives.

Never more than a window of chunks is on its way, so nothing can pile up for a slow device. The digest decides, always:
a bad or missing chunk is wanted again, with jitter and a bound. Where chunks come from and where they go are ports.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from edgeml_agent import backoff
from edgeml_agent.asking import Asking
from edgeml_agent.ports import Arrival, ChunkSource
from edgeml_agent.releases import Partial
from edgeml_core.errors import RejectedError, TransportError

#: 16 chunks of 64 KiB: a megabyte on its way, and at 100 ms there and back some 8 MB a second.
WINDOW_CHUNKS: Final = 16
#: No chunk for so long means that those on their way are lost.
SILENCE_S: Final = 5.0
SILENCES_MAX: Final = 6
#: A chunk that so many later ones have overtaken is lost, though others still come.
OVERTAKEN_CHUNKS: Final = 2 * WINDOW_CHUNKS
#: Copies of one chunk with other content than its digest's.
BAD_COPIES_MAX: Final = 3


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a fetch is, in bytes: `done` of the release's `total`, and how many went over the wire for it."""

    done_bytes: int
    total_bytes: int
    wire_bytes: int


class Fetch:
    """One release on its way from `source` to `partial`.

    Args:
        missing: the digests of the chunks to fetch, in the order to ask for them.
        asking: by which keys to ask for them.
        notice: called after each chunk.
        silence_s: see `SILENCE_S`.
    """

    def __init__(
        self,
        partial: Partial,
        source: ChunkSource,
        *,
        missing: list[str],
        asking: Asking,
        notice: Callable[[Progress], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        self._partial = partial
        self._source = source
        self._notice = notice
        self._silence_s = silence_s
        self._asking = asking
        #: Chunks to ask for by digest, and keys on their way with the number of arrivals when they were wanted.
        self._waiting = deque(missing)
        self._flying: dict[str, int] = {}
        #: Keys whose topics can be left.
        self._answered: list[str] = []
        self._needed = set(missing)
        self._window = WINDOW_CHUNKS
        self._arrivals = 0
        self._silences = 0
        self._bad: Counter[str] = Counter()
        self._wire_bytes = 0
        self._done_bytes = partial.release.manifest.size_bytes - partial.size_of(missing)

    async def run(self) -> Progress:
        """Fetch all that is missing; on return it survives a power cut.

        Raises:
            TransportError: `chunk-timeout`, after `SILENCES_MAX` silences in a row; `broker-unreachable`.
            RejectedError: `digest-mismatch`, after `BAD_COPIES_MAX` bad copies of one chunk.
            DeviceError: the disk fails.
        """
        try:
            while self._needed:
                await self._fill_window()
                arrival = await self._source.receive(backoff.jittered(self._silence_s))
                if arrival is None:
                    self._fell_silent()
                else:
                    await self._take(arrival)
        finally:
            await self._source.drop([*self._flying, *self._answered])
            await asyncio.to_thread(self._partial.sync)
        return self._progress()

    async def _fill_window(self) -> None:
        """Ask for as many chunks as there is room for, once half the window is free: that halves the requests."""
        self._give_up_overtaken()
        if len(self._flying) > self._window // 2:
            return
        wanted: list[str] = []
        while self._waiting and len(self._flying) + len(wanted) < self._window:
            digest = self._waiting.popleft()
            if digest in self._needed:
                wanted.append(self._asking.key(digest))
        if wanted:
            self._flying |= dict.fromkeys(wanted, self._arrivals)
            await self._source.drop(set(self._answered).difference(wanted))
            self._answered.clear()
            await self._source.want(wanted)

    async def _take(self, arrival: Arrival) -> None:
        self._silences = 0
        self._arrivals += 1
        self._wire_bytes += len(arrival.payload)
        if self._arrivals % WINDOW_CHUNKS == 0:
            self._window = min(self._window + 1, WINDOW_CHUNKS)
        digest = self._asking.digest(arrival.key)
        if digest not in self._needed:
            return
        try:
            self._done_bytes += await asyncio.to_thread(self._store, digest, arrival)
        except RejectedError:
            self._refuse(arrival.key)
            return
        self._needed.remove(digest)
        self._flying.pop(arrival.key, None)
        self._answered.append(arrival.key)
        self._notice(self._progress())

    def _store(self, digest: str, arrival: Arrival) -> int:
        return self._partial.put(digest, self._asking.chunk(arrival))

    def _refuse(self, key: str) -> None:
        self._bad[key] += 1
        if self._bad[key] >= BAD_COPIES_MAX:
            message = f"{BAD_COPIES_MAX} copies of chunk {key[:12]} of {self._stem} had other content"
            raise RejectedError("digest-mismatch", message, "check the origin's repository, and who may publish chunks")
        self._asking.refused(key)
        self._want_again([key])

    def _fell_silent(self) -> None:
        self._silences += 1
        if self._silences >= SILENCES_MAX:
            message = f"{len(self._flying)} wanted chunks of {self._stem} didn't arrive"
            raise TransportError(
                "chunk-timeout", message, "check that `edgeml fleet serve` runs and reaches the broker"
            )
        self._window = max(1, self._window // 2)
        self._give_up(list(self._flying))

    def _give_up_overtaken(self) -> None:
        lost = [key for key, since in self._flying.items() if self._arrivals - since > OVERTAKEN_CHUNKS]
        self._give_up(lost)

    def _give_up(self, keys: list[str]) -> None:
        for key in keys:
            self._asking.unanswered(key)
        self._want_again(keys)

    def _want_again(self, keys: list[str]) -> None:
        for key in reversed(keys):
            self._flying.pop(key, None)
            self._answered.append(key)
            self._waiting.appendleft(self._asking.digest(key))

    @property
    def _stem(self) -> str:
        return self._partial.release.manifest.stem

    def _progress(self) -> Progress:
        total_bytes = self._partial.release.manifest.size_bytes
        return Progress(done_bytes=self._done_bytes, total_bytes=total_bytes, wire_bytes=self._wire_bytes)
