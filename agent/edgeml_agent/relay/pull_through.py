"""Answers to the wants of a site's devices: from the cache, else pulled over the network once for all that want them.

Wire keys and payloads are opaque. A relay can verify no payload: the names of encrypted chunks aren't digests. When a
device wants a payload again that it has received three times, the relay pulls another copy, at a bounded rate.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from edgeml_agent import log
from edgeml_agent.ports import Arrival, ChunkSource
from edgeml_agent.relay.cache import Cache
from edgeml_core import wire_keys
from edgeml_core.errors import DeviceError, RejectedError, TransportError
from edgeml_io.aio import within

#: Keys being pulled at one time for all devices: eight windows.
PULLS_MAX: Final = 512
#: The same for one device that was the first to want them: two windows.
PULLS_MAX_OF_ONE: Final = 128
#: Seconds for which the first want waits for others, so that one message asks for all.
GATHER_S: Final = 0.02
#: Seconds after which a key that a device wants again is pulled again: a device waits as many for a lost chunk.
PULL_AGAIN_S: Final = 3.0
#: Seconds after which a pull is given up: the longest silence that a device bears.
PULL_MAX_S: Final = 60.0
#: Copies of one payload for one device within `COPIES_WITHIN_S` before the relay takes the payload for damaged.
COPIES_MAX: Final = 3
#: Seconds in which these copies count: a device asks again for a bad chunk within seconds.
COPIES_WITHIN_S: Final = 60.0
#: Seconds between two pulls of one payload that devices take for damaged: a hostile device must not cost the network.
REPULL_EVERY_S: Final = 10.0
#: Entries remembered of copies and of repeated pulls: a hostile device must not fill the memory.
GIVEN_MAX: Final = 65_536

K = TypeVar("K")
V = TypeVar("V")
#: Gives a device the cached payloads of these keys.
Give = Callable[[str, Sequence[str]], None]


class _Pull:
    """One key that is being pulled."""

    def __init__(self, device: str, now_s: float) -> None:
        self.first = device
        self.wanters = {device}
        self.began_s = self.requested_s = now_s


class Pulls:
    """All keys that are being pulled from `upstream` into `cache`."""

    def __init__(self, upstream: ChunkSource, cache: Cache, give: Give) -> None:
        self._upstream = upstream
        self._cache = cache
        self._give = give
        self._pulls: dict[str, _Pull] = {}
        #: The number of pulls by the device that wanted the key first.
        self._count_of: Counter[str] = Counter()
        self._to_request: dict[str, None] = {}
        self._has_requests = asyncio.Event()
        self._given: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self._repulled_s: OrderedDict[str, float] = OrderedDict()

    def want(self, device: str, keys: Collection[str]) -> None:
        """Give a device the cached payloads, and pull the rest; keys beyond the bounds are dropped."""
        now_s = asyncio.get_running_loop().time()
        cached = [key for key in keys if self._is_cached(device, key, now_s)]
        for key in set(keys).difference(cached):
            self._pull(device, key, now_s)
        if cached:
            self._give(device, cached)

    async def run(self) -> None:
        """Pull until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._request())
            tasks.create_task(self._receive())

    def _is_cached(self, device: str, key: str, now_s: float) -> bool:
        if not self._cache.has(key):
            return False
        at_s, copies = self._given.pop((device, key), (now_s, 0))
        copies = copies + 1 if now_s - at_s < COPIES_WITHIN_S else 1
        if copies > COPIES_MAX and now_s - self._repulled_s.get(key, -REPULL_EVERY_S) >= REPULL_EVERY_S:
            log.event("relay pulls again", key=key, device=device)
            self._cache.drop(key)
            _remember(self._repulled_s, key, now_s)
            return False
        _remember(self._given, (device, key), (now_s, copies))
        return True

    def _pull(self, device: str, key: str, now_s: float) -> None:
        pull = self._pulls.get(key)
        if pull is not None:
            pull.wanters.add(device)
            if now_s - pull.requested_s < PULL_AGAIN_S:
                return
            pull.requested_s = now_s
        elif len(self._pulls) < PULLS_MAX and self._count_of[device] < PULLS_MAX_OF_ONE and _is_key(key):
            self._pulls[key] = _Pull(device, now_s)
            self._count_of[device] += 1
        else:
            return
        self._to_request[key] = None
        self._has_requests.set()

    async def _request(self) -> None:
        while True:
            await self._has_requests.wait()
            await asyncio.sleep(GATHER_S)
            self._has_requests.clear()
            keys, self._to_request = list(self._to_request), {}
            try:
                await self._upstream.want(keys)
            except TransportError as error:
                log.failure("relay can't pull", error)

    async def _receive(self) -> None:
        while True:
            arrival = await self._upstream.receive(PULL_AGAIN_S)
            if arrival is not None and (pull := self._pulls.get(arrival.key)) is not None:
                await self._take(arrival, pull)
            await self._forget_old()

    async def _take(self, arrival: Arrival, pull: _Pull) -> None:
        try:
            await asyncio.to_thread(self._cache.put, arrival.key, arrival.payload)
        except DeviceError as error:
            log.failure("relay can't keep", error)
            return
        await self._end([arrival.key])
        now_s = asyncio.get_running_loop().time()
        for device in pull.wanters:
            if self._is_cached(device, arrival.key, now_s):
                self._give(device, [arrival.key])

    async def _forget_old(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if old := [key for key, pull in self._pulls.items() if now_s - pull.began_s > PULL_MAX_S]:
            await self._end(old)

    async def _end(self, keys: Sequence[str]) -> None:
        for key in keys:
            first = self._pulls.pop(key).first
            self._count_of[first] -= 1
            if not self._count_of[first]:
                del self._count_of[first]
        await self._upstream.drop(keys)


class OwnChunks:
    """The chunks of the relay's own device: a `ChunkSource` that reads the cache without a broker."""

    def __init__(self, device: str, upstream: ChunkSource, cache: Cache) -> None:
        self._device = device
        self._upstream = upstream
        self._cache = cache
        self._wanted: set[str] = set()
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self.pulls: Pulls | None = None

    @property
    def position(self) -> str:
        """See `ChunkSource.position`."""
        return self._upstream.position

    async def follow(self, release: str) -> None:
        """See `ChunkSource.follow`."""
        await self._upstream.follow(release)

    async def want(self, keys: Collection[str]) -> None:
        """See `ChunkSource.want`."""
        self._wanted |= set(keys)
        if self.pulls is not None:
            self.pulls.want(self._device, keys)

    async def receive(self, timeout_s: float) -> Arrival | None:
        """See `ChunkSource.receive`."""
        try:
            return await within(self._arrivals.get(), timeout_s)
        except TimeoutError:
            return None

    async def drop(self, keys: Collection[str]) -> None:
        """See `ChunkSource.drop`."""
        self._wanted -= set(keys)

    def give(self, keys: Sequence[str]) -> None:
        """Queue the cached payloads among the wanted ones: never more than a window."""
        for key in self._wanted.intersection(keys):
            try:
                self._arrivals.put_nowait(Arrival(key, self._cache.wire(key)))
            except RejectedError as error:
                log.failure("relay's cache", error)


def _is_key(key: str) -> bool:
    try:
        return bool(wire_keys.ids(key))
    except RejectedError:
        return False


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    if len(memory) > GIVEN_MAX:
        memory.popitem(last=False)
