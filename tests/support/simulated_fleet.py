"""Devices and the origin on virtual time: the real scheduler, windows and feeds over a broker in memory.

The devices' CPU time is drawn from a seeded distribution, on a number of cores that all share. So a run shows what
boards of different or changing speed do to each other. It takes no longer than its arithmetic, and comes out the same
each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from edgeml_agent.fetch.chunk_requests import ChunkRequests
from edgeml_agent.fetch.window import Fetch
from edgeml_agent.link.chunk_feed import ChunkFeed
from edgeml_agent.link.current import CurrentConnection
from edgeml_agent.ports import Arrival
from edgeml_agent.store.releases import DeltaBases, PartialRelease
from edgeml_core import broker, chunks, messages, wire_keys
from edgeml_core.messages import Topics, Want
from edgeml_io.mqtt import Connection, Message
from edgeml_origin.cohorts import AnnouncedRelease
from edgeml_origin.origin import Origin
from support import virtual_time

TOPICS = Topics("farm")
RELEASE = "f" * 64
CHUNK = bytes(chunks.CHUNK_BYTES)
#: Seconds from a client to the broker.
LATENCY_S = 0.002
#: CPU seconds of the host for each publication.
PUBLISH_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device.

    Args:
        chunk_s: CPU seconds for each chunk, on average; each draw is exponential.
        idle_s: seconds for each chunk that cost no CPU: a slow disk.
        stall_share: the share of the chunks at which it stalls for up to `stall_s`, at a busy core.
        starts_s: when it begins.
    """

    chunk_s: float = 0.004
    idle_s: float = 0.0
    stall_share: float = 0.0
    stall_s: float = 0.4
    starts_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Publications of each chunk on average, and when each device was done."""

    per_chunk: float
    done_s: list[float]


def deliver(devices: Sequence[Device], *, cores: int, chunk_count: int = 384, seed: int = 0) -> Outcome:
    """Deliver one release to all devices."""
    return virtual_time.run(_Site(devices, cores, chunk_count, random.Random(seed)).deliver())  # noqa: S311 - a simulation


@dataclass
class _Broker:
    """Topics with their subscribers, in their order, and what is retained; counts publications."""

    subscribers: defaultdict[str, dict[_Client, None]] = field(default_factory=lambda: defaultdict(dict))
    retained: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def publish(self, topic: str, payload: bytes) -> None:
        self.counts[topic] += 1
        for client in tuple(self.subscribers[topic]):
            client.on_message(topic, payload)


class _Client:
    """A device's connection; see `edgeml_io.mqtt.Connection`."""

    def __init__(self, at: _Broker, on_want: Callable[[bytes], None]) -> None:
        self._broker = at
        self._on_want = on_want
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None

    def subscribe(self, topics: Sequence[tuple[str, int]], **_: float) -> Awaitable[None]:
        return self._soon(lambda: [self._subscribe(topic) for topic, _ in topics])

    def publish(self, _topic: str, payload: bytes, **_: float) -> Awaitable[None]:
        return self._soon(lambda: self._on_want(payload))

    def unsubscribe(self, topics: Sequence[str]) -> Awaitable[None]:
        return self._soon(lambda: [self._broker.subscribers[topic].pop(self, None) for topic in topics])

    def _subscribe(self, topic: str) -> None:
        self._broker.subscribers[topic][self] = None
        if retained := self._broker.retained.get(topic):
            self.on_message(topic, retained)

    def _soon(self, act: Callable[[], object]) -> Awaitable[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        loop.call_later(LATENCY_S, lambda: (act(), done.set_result(None)))
        return done


class _Paced:
    """A `ChunkSource` that takes a device's time over each chunk."""

    def __init__(self, feed: ChunkFeed, take: Callable[[], Awaitable[None]]) -> None:
        self._feed = feed
        self._take = take
        self.follow, self.want, self.drop = feed.follow, feed.want, feed.drop

    @property
    def position(self) -> str:
        return self._feed.position

    async def receive(self, timeout_s: float) -> Arrival | None:
        arrival = await self._feed.receive(timeout_s)
        if arrival is not None:
            await self._take()
        return arrival


class _Site:
    """All parts of one delivery."""

    def __init__(self, devices: Sequence[Device], cores: int, chunk_count: int, rng: random.Random) -> None:
        self._devices = {f"board-{number}": device for number, device in enumerate(devices)}
        self._digests = [f"{number:064x}"[::-1] for number in range(1, chunk_count + 1)]
        self._rng = rng
        self._cores = asyncio.Semaphore(cores)
        self._broker = _Broker()
        self._origin = Origin(cast("Any", SimpleNamespace(wire=lambda _key: CHUNK)))
        names = frozenset(self._devices)
        ids = frozenset(map(wire_keys.chunk_id, self._digests))
        announced = AnnouncedRelease(release=wire_keys.chunk_id(RELEASE), ids=ids, devices=names)
        self._origin.scheduler.allow(releases=[announced], devices=names)

    async def deliver(self) -> Outcome:
        host = asyncio.create_task(self._origin.run(self._publish, self._publish_position))
        done_s = await asyncio.gather(*(self._fetch(name, device) for name, device in self._devices.items()))
        host.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await host
        sent = sum(count for topic, count in self._broker.counts.items() if topic.startswith(TOPICS.chunk("")))
        return Outcome(sent / len(self._digests), list(done_s))

    async def _fetch(self, name: str, device: Device) -> float:
        await asyncio.sleep(device.starts_s)
        client = _Client(self._broker, lambda payload: self._origin.want(name, messages.decode(payload, Want).keys))
        connection = cast("Connection", client)
        current = CurrentConnection(broker.parse("mqtt://localhost"))
        feed = ChunkFeed(TOPICS, name, current)
        client.on_message = lambda topic, payload: feed.on_message(
            Message(topic, payload, retain=False, expires_s=None, reply_to=None, correlation=None)
        )
        with current.use(connection):
            leaving = asyncio.create_task(feed.run(connection))
            await self._window(_Paced(feed, lambda: self._take(device))).run()
            leaving.cancel()
        return asyncio.get_running_loop().time()

    def _window(self, source: _Paced) -> Fetch:
        digests = list(self._digests)
        size_bytes = len(digests) * len(CHUNK)
        manifest = SimpleNamespace(size_bytes=size_bytes, stem="line-1", files=[])
        partial = SimpleNamespace(
            release=SimpleNamespace(digest=RELEASE, manifest=manifest),
            size_of=lambda missing: len(missing) * len(CHUNK),
            put=lambda _digest, _chunk: len(CHUNK),
            sync=lambda: None,
        )
        requests = ChunkRequests(DeltaBases(cast("Any", manifest)))
        requests.chunk = lambda arrival: arrival.payload  # type: ignore[method-assign]
        return Fetch(
            cast("PartialRelease", partial), source, missing=digests, requests=requests, on_progress=lambda _: None
        )

    async def _take(self, device: Device) -> None:
        await asyncio.sleep(device.idle_s)
        stalls = self._rng.random() < device.stall_share
        stall_s = self._rng.uniform(0.0, device.stall_s) if stalls else 0.0
        await self._work(self._rng.expovariate(1.0) * device.chunk_s + stall_s)

    async def _publish(self, key: str, payload: bytes) -> None:
        await self._work(PUBLISH_S)
        self._broker.publish(TOPICS.chunk(key), payload)

    async def _publish_position(self, release: str, chunk_id: str) -> None:
        topic = TOPICS.wave(release)
        self._broker.retained[topic] = chunk_id.encode()
        self._broker.publish(topic, chunk_id.encode())

    async def _work(self, seconds: float) -> None:
        async with self._cores:
            await asyncio.sleep(seconds)
