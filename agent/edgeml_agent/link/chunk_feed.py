"""Chunks over the connection: a `ChunkSource` that subscribes to exact topics, and asks the origin for wire keys.

Chunks have QoS 0 on topics that are left as the chunks arrive. So the broker never queues more than a window of them
for a slow device, and nothing for an absent one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Collection, Sequence
from typing import Final

from edgeml_agent.link.chunk_topics import ChunkTopics
from edgeml_agent.link.current import CurrentConnection
from edgeml_agent.link.rate_limit import RateLimit
from edgeml_agent.ports import Arrival
from edgeml_core import messages
from edgeml_core.messages import Topics, Want
from edgeml_io.mqtt import Connection, Message

#: Seconds for the retained position: the broker sends it together with its confirmation of the subscription.
POSITION_WAIT_S: Final = 0.05


class ChunkFeed:
    """The chunks of one device; see `ChunkSource`.

    Args:
        topics: the topics of its fleet.
        device: its id.
        current: the connection.
        max_bytes_per_s: a limit on arriving chunks; None sets none.
    """

    def __init__(
        self, topics: Topics, device: str, current: CurrentConnection, max_bytes_per_s: int | None = None
    ) -> None:
        self._topics = topics
        self._want_topic = topics.want(device)
        self._current = current
        self._chunks = ChunkTopics(topics)
        self._limit = RateLimit(max_bytes_per_s)
        self._to_unsubscribe = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()

    @property
    def position(self) -> str:
        """See `ChunkSource.position`."""
        return self._chunks.position

    async def follow(self, release: str) -> None:
        """See `ChunkSource.follow`; wait for the retained position."""
        self._chunks.follow(release)
        self._to_unsubscribe.set()
        if release:
            connection = await self._current.get()
            with self._current.translated():
                await connection.subscribe([(self._topics.wave(release), 0)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POSITION_WAIT_S):
                    await self._chunks.position_known.wait()

    async def want(self, keys: Collection[str]) -> None:
        """See `ChunkSource.want`. It doesn't wait for the broker's answer, which follows all queued chunks."""
        await asyncio.sleep(self._limit.wait_s(time.monotonic()))
        connection = await self._current.get()
        self._request(connection, self._chunks.want(keys), tuple(keys))

    async def receive(self, timeout_s: float) -> Arrival | None:
        """See `ChunkSource.receive`."""
        return await self._chunks.receive(timeout_s)

    async def drop(self, keys: Collection[str]) -> None:
        """See `ChunkSource.drop`; one UNSUBSCRIBE takes the topics of several drops."""
        self._chunks.drop(keys)
        self._to_unsubscribe.set()

    def on_message(self, message: Message) -> None:
        """Handle a chunk or a position."""
        self._chunks.on_message(message)
        self._limit.spend(len(message.payload), time.monotonic())
        if self._chunks.has_unsubscribed:
            self._to_unsubscribe.set()

    def on_announcement(self) -> None:
        """Ask again for all wanted chunks when none arrive: a host that has just started knows no earlier wants."""
        connection = self._current.get_now()
        if connection is not None and self._chunks.is_starved(time.monotonic()):
            self._request(connection, [], tuple(self._chunks.wanted))

    def restart(self, connection: Connection) -> None:
        """Subscribe on a new connection, and ask again for all wanted chunks."""
        self._request(connection, self._chunks.subscriptions, tuple(self._chunks.wanted))

    async def run(self, connection: Connection) -> None:
        """Unsubscribe from topics that are no longer wanted, until cancelled.

        Raises:
            MqttError: the connection is lost.
        """
        self._to_unsubscribe.set()
        while True:
            await self._to_unsubscribe.wait()
            self._to_unsubscribe.clear()
            if topics := self._chunks.take_unsubscribed():
                await connection.unsubscribe(topics)

    def _request(self, connection: Connection, subscriptions: list[tuple[str, int]], keys: tuple[str, ...]) -> None:
        """Subscribe and want, in this order and without a pause. After a lost connection `restart` asks again."""
        calls: list[Awaitable[object]] = []
        if subscriptions:
            calls.append(connection.subscribe(subscriptions, timeout_s=math.inf))
        for start in range(0, len(keys), messages.WANTS_MAX):
            want = messages.encode(Want(keys=keys[start : start + messages.WANTS_MAX]))
            calls.append(connection.publish(self._want_topic, want, timeout_s=math.inf))
        request = asyncio.create_task(_all_ended(calls))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)


async def _all_ended(calls: Sequence[Awaitable[object]]) -> None:
    """Begin calls in this order, and wait until each has succeeded or failed."""
    await asyncio.gather(*calls, return_exceptions=True)
