"""The receiver's window: which chunks are asked for when, and what is done with what arrives.

Never more than a window of chunks is on its way, so nothing can pile up for a slow device. How many those are is
`pace`'s business, in which order they are asked for `order`'s, by which keys `asking`'s. The digest decides: a bad or
missing chunk is wanted again, with jitter and a bound. Where chunks come from and where they go are ports.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from edgeml_agent.fetch.chunk_requests import ChunkRequests
from edgeml_agent.fetch.flow_control import Pace
from edgeml_agent.fetch.order import Order
from edgeml_agent.ports import Arrival, ChunkSource
from edgeml_agent.store.releases import PartialRelease
from edgeml_core import wire_keys
from edgeml_core.errors import RejectedError, TransportError
from edgeml_io import backoff

#: Silences in a row; each is twice as long as the one before.
SILENCES_MAX: Final = 3
#: Copies of one chunk with other content than its digest's.
BAD_COPIES_MAX: Final = 3


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a fetch is, in bytes: `done` of the release's `total`, and how many went over the wire for it."""

    done_bytes: int
    total_bytes: int
    wire_bytes: int


class _Flight(msgspec.Struct, frozen=True):
    """When a key was wanted, and how many chunks had arrived by then."""

    wanted_s: float
    arrivals: int


class Fetch:
    """One release on its way from `source` to `partial`.

    Args:
        missing: the digests of the chunks to fetch, in the order of the files.
        asking: by which keys to ask for them.
        notice: called after each chunk.
    """

    def __init__(
        self,
        partial: PartialRelease,
        source: ChunkSource,
        *,
        missing: list[str],
        asking: ChunkRequests,
        notice: Callable[[Progress], None],
    ) -> None:
        self._partial = partial
        self._source = source
        self._notice = notice
        self._asking = asking
        self._pace = Pace()
        #: Chunks to ask for, and keys on their way.
        self._order = Order(missing, asking.chunk_id)
        self._flying: dict[str, _Flight] = {}
        #: Keys whose topics can be left.
        self._answered: list[str] = []
        self._needed = set(missing)
        self._arrivals = 0
        self._bad: Counter[str] = Counter()
        self._wire_bytes = 0
        self._done_bytes = partial.release.manifest.size_bytes - partial.size_of(missing)

    async def run(self) -> Progress:
        """Fetch all that is missing; on return it survives a power cut.

        Raises:
            TransportError: `chunk-timeout`, after `SILENCES_MAX` silences in a row; `broker-unreachable`;
                `digest-mismatch`, after `BAD_COPIES_MAX` bad copies of one chunk: they say nothing against the release.
            DeviceError: the disk fails.
        """
        await self._source.follow(wire_keys.chunk_id(self._partial.release.digest))
        try:
            while self._needed:
                await self._fill_window()
                arrival = await self._source.receive(self._pace.silence_s + backoff.jittered(self._pace.silence_s / 2))
                if arrival is None:
                    self._fell_silent()
                else:
                    await self._take(arrival)
        finally:
            await self._source.drop([*self._flying, *self._answered])
            await self._source.follow("")
            await asyncio.to_thread(self._partial.sync)
        return self._progress()

    async def _fill_window(self) -> None:
        """Ask for as many chunks as there is room for, once half the window is free: that halves the requests."""
        now_s = time.monotonic()
        self._give_up_overtaken(now_s)
        if len(self._flying) > self._pace.window // 2:
            return
        self._pace.adapt(now_s)
        self._order.follow(self._source.position)
        wanted: list[str] = []
        while self._order and len(self._flying) + len(wanted) < self._pace.window:
            digest = self._order.take()
            if digest in self._needed:
                wanted.append(self._asking.key(digest))
        if wanted:
            self._flying |= dict.fromkeys(wanted, _Flight(now_s, self._arrivals))
            await self._source.drop(set(self._answered).difference(wanted))
            self._answered.clear()
            await self._source.want(wanted)

    async def _take(self, arrival: Arrival) -> None:
        self._arrivals += 1
        self._wire_bytes += len(arrival.payload)
        if flight := self._flying.get(arrival.key):
            self._pace.came(time.monotonic(), flight.wanted_s)
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
            hint = "check the origin's repository, and who may publish chunks"
            raise TransportError("digest-mismatch", message, hint)
        self._asking.refused(key)
        self._want_again([key])

    def _fell_silent(self) -> None:
        if self._pace.fell_silent() >= SILENCES_MAX:
            message = f"{len(self._flying)} wanted chunks of {self._stem} didn't arrive"
            raise TransportError(
                "chunk-timeout", message, "check that `edgeml fleet serve` runs and reaches the broker"
            )
        self._give_up(list(self._flying))

    def _give_up_overtaken(self, now_s: float) -> None:
        lost = [
            key
            for key, flight in self._flying.items()
            if self._pace.is_overtaken(by=self._arrivals - flight.arrivals, wanted_s=flight.wanted_s, now_s=now_s)
        ]
        if lost:
            self._pace.lost()
            self._give_up(lost)

    def _give_up(self, keys: list[str]) -> None:
        for key in keys:
            self._asking.unanswered(key)
        self._want_again(keys)

    def _want_again(self, keys: list[str]) -> None:
        for key in keys:
            self._flying.pop(key, None)
        self._answered += keys
        self._order.again([self._asking.digest(key) for key in keys])

    @property
    def _stem(self) -> str:
        return self._partial.release.manifest.stem

    def _progress(self) -> Progress:
        total_bytes = self._partial.release.manifest.size_bytes
        return Progress(done_bytes=self._done_bytes, total_bytes=total_bytes, wire_bytes=self._wire_bytes)
