"""A connection to a broker in memory: it confirms and acknowledges at once, unless it is held or lost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from edgeml_core.broker import BrokerUrl
from edgeml_io.mqtt import Message, MqttError

URL = BrokerUrl(host="broker.example", port=1883, tls=False)


class MemoryConnection:
    """See `edgeml_io.mqtt.Connection`. `events` has all calls in order."""

    def __init__(self, payload_max_bytes: float = math.inf) -> None:
        self.payload_max_bytes = payload_max_bytes
        self.events: list[tuple[str, object]] = []
        self.published: list[tuple[str, bytes]] = []
        self.retained: dict[str, bytes] = {}
        self.subscribed: dict[str, int] = {}
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        #: Cleared, the broker answers nothing.
        self.answers = asyncio.Event()
        self.answers.set()
        self._lost = asyncio.Event()

    def lose(self) -> None:
        """End the connection: all calls fail."""
        self._lost.set()
        self.answers.set()

    def __aiter__(self) -> MemoryConnection:
        return self

    async def __anext__(self) -> Message:
        getting, lost = asyncio.ensure_future(self.inbox.get()), asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({getting, lost}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            raise MqttError("the connection was lost")
        finally:
            getting.cancel()
            lost.cancel()

    async def subscribe(self, subscriptions: Sequence[tuple[str, int]], *, timeout_s: float | None = None) -> None:
        """Confirm."""
        self.events.append(("subscribe", [topic for topic, _ in subscriptions]))
        await self._answered()
        self.subscribed |= dict(subscriptions)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Confirm."""
        self.events.append(("unsubscribe", list(topics)))
        await self._answered()
        for topic in topics:
            self.subscribed.pop(topic, None)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        correlation: bytes | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Acknowledge, and keep the message, if it isn't too long."""
        if len(payload) > self.payload_max_bytes:
            return False
        self.events.append(("publish", topic))
        if qos:
            await self._answered()
        elif self._lost.is_set():
            raise MqttError("the connection was lost")
        self.published.append((topic, payload))
        if retain:
            self.retained[topic] = payload
        return True

    async def _answered(self) -> None:
        await self.answers.wait()
        if self._lost.is_set():
            raise MqttError("the connection was lost")
