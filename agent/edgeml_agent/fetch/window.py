"""The receiver's window: request chunks, store those that arrive, and request again those that don't.

Never more than a window of chunks is in flight, so nothing piles up for a slow device. The size of the window is left
to `flow_control`, the order of requests to `order`, their wire keys to `chunk_requests`. A bad or missing chunk is
requested again, with jitter and a bound. The source of chunks and the release on the disk are ports.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from edgeml_agent.fetch.chunk_requests import ChunkRequests
from edgeml_agent.fetch.flow_control import FlowControl
from edgeml_agent.fetch.order import RequestOrder
from edgeml_agent.ports import Arrival, ChunkSource
from edgeml_agent.store.releases import PartialRelease
from edgeml_core import wire_keys
from edgeml_core.errors import RejectedError, TransportError
from edgeml_io import aio, backoff

#: Silences in a row after which the fetch fails, each twice as long as the one before: 21 s altogether at least.
SILENCES_MAX: Final = 3
#: Copies of one chunk with another digest, after which the fetch fails: a damaged store sends no other copy.
BAD_COPIES_MAX: Final = 3


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a fetch in bytes: of the release, those on the disk and all; and the bytes received for it."""

    done_bytes: int
    total_bytes: int
    wire_bytes: int


class _Request(msgspec.Struct, frozen=True):
    """When a key was requested, and how many chunks had arrived by then."""

    wanted_s: float
    arrivals: int


class Fetch:
    """The fetch of one release from `source` to `partial`.

    Args:
        partial: the incomplete release on the disk.
        source: the source of chunks.
        missing: the digests of the chunks to fetch, in the order of the files.
        requests: their wire keys.
        on_progress: called after each chunk.
    """

    def __init__(
        self,
        partial: PartialRelease,
        source: ChunkSource,
        *,
        missing: list[str],
        requests: ChunkRequests,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._partial = partial
        self._source = source
        self._on_progress = on_progress
        self._requests = requests
        self._flow = FlowControl()
        #: Chunks to request.
        self._order = RequestOrder(missing, requests.chunk_id)
        #: Requested keys.
        self._in_flight: dict[str, _Request] = {}
        #: Keys that the source can drop.
        self._answered: list[str] = []
        self._needed = set(missing)
        self._arrivals = 0
        self._bad: Counter[str] = Counter()
        self._wire_bytes = 0
        self._done_bytes = partial.release.manifest.size_bytes - partial.size_of(missing)

    async def run(self) -> Progress:
        """Fetch all missing chunks; on return they survive a power cut.

        Raises:
            TransportError: `chunk-timeout`, after `SILENCES_MAX` silences in a row; `broker-unreachable`;
                `digest-mismatch`, after `BAD_COPIES_MAX` bad copies of one chunk: the release itself may be good.
            DeviceError: the disk fails.
        """
        await self._source.follow(wire_keys.chunk_id(self._partial.release.digest))
        try:
            while self._needed:
                await self._fill_window()
                arrival = await self._source.receive(self._flow.silence_s + backoff.jittered(self._flow.silence_s / 2))
                if arrival is None:
                    self._on_silence()
                else:
                    await self._take(arrival)
        finally:
            await self._source.drop([*self._in_flight, *self._answered])
            await self._source.follow("")
            await asyncio.to_thread(self._partial.sync)
        return self._progress()

    async def _fill_window(self) -> None:
        """Request as many chunks as the window has room for, once half of it is free: that halves the messages."""
        now_s = asyncio.get_running_loop().time()
        self._give_up_overtaken(now_s)
        if len(self._in_flight) > self._flow.window // 2:
            return
        self._flow.adapt(now_s)
        self._order.follow(self._source.position)
        wanted: list[str] = []
        while self._order and len(self._in_flight) + len(wanted) < self._flow.window:
            digest = self._order.take()
            if digest in self._needed:
                wanted.append(self._requests.key(digest))
        if wanted:
            self._in_flight |= dict.fromkeys(wanted, _Request(now_s, self._arrivals))
            await self._source.drop(set(self._answered).difference(wanted))
            self._answered.clear()
            await self._source.want(wanted)

    async def _take(self, arrival: Arrival) -> None:
        self._arrivals += 1
        self._wire_bytes += len(arrival.payload)
        if request := self._in_flight.get(arrival.key):
            self._flow.on_arrival(asyncio.get_running_loop().time(), request.wanted_s)
        digest = self._requests.digest(arrival.key)
        if digest not in self._needed:
            return
        try:
            self._done_bytes += await aio.run_to_end(asyncio.to_thread(self._store, digest, arrival))
        except RejectedError:
            self._refuse(arrival.key)
            return
        self._needed.remove(digest)
        self._in_flight.pop(arrival.key, None)
        self._answered.append(arrival.key)
        self._on_progress(self._progress())

    def _store(self, digest: str, arrival: Arrival) -> int:
        return self._partial.put(digest, self._requests.chunk(arrival))

    def _refuse(self, key: str) -> None:
        self._bad[key] += 1
        if self._bad[key] >= BAD_COPIES_MAX:
            message = f"{BAD_COPIES_MAX} copies of chunk {key[:12]} of {self._stem} had other content"
            hint = "check the origin's repository, and the rights to publish chunks"
            raise TransportError("digest-mismatch", message, hint)
        self._requests.on_refusal(key)
        self._request_again([key])

    def _on_silence(self) -> None:
        if self._flow.on_silence() >= SILENCES_MAX:
            message = f"{len(self._in_flight)} requested chunks of {self._stem} didn't arrive"
            raise TransportError(
                "chunk-timeout", message, "check that `edgeml fleet serve` runs and reaches the broker"
            )
        self._give_up(list(self._in_flight))

    def _give_up_overtaken(self, now_s: float) -> None:
        lost = [
            key
            for key, request in self._in_flight.items()
            if self._flow.is_overtaken(by=self._arrivals - request.arrivals, wanted_s=request.wanted_s, now_s=now_s)
        ]
        if lost:
            self._flow.on_loss()
            self._give_up(lost)

    def _give_up(self, keys: list[str]) -> None:
        for key in keys:
            self._requests.on_loss(key)
        self._request_again(keys)

    def _request_again(self, keys: list[str]) -> None:
        for key in keys:
            self._in_flight.pop(key, None)
        self._answered += keys
        self._order.again([self._requests.digest(key) for key in keys])

    @property
    def _stem(self) -> str:
        return self._partial.release.manifest.stem

    def _progress(self) -> Progress:
        total_bytes = self._partial.release.manifest.size_bytes
        return Progress(done_bytes=self._done_bytes, total_bytes=total_bytes, wire_bytes=self._wire_bytes)
