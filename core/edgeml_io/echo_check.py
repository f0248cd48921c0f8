"""A check of the rights at a broker, by echoes: a client publishes an empty payload where it may write and read.

Brokers confirm a SUBSCRIBE that their access list forbids, and then deliver nothing. All other parts ignore empty
payloads. Which topics a client needs, and what a missing right means, is left to the callers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final

from edgeml_io.mqtt import Connection, Message

#: Seconds for all echoes: an echo takes one round trip, which is below a second on mobile networks.
ECHO_WAIT_S: Final = 5.0


class EchoCheck:
    """The topics on which a client must be able to publish to itself."""

    def __init__(self, needed: Collection[str]) -> None:
        self._needed = frozenset(needed)
        self._missing: set[str] = set()
        self._is_complete = asyncio.Event()

    def is_echo(self, message: Message) -> bool:
        """Return whether a message is an echo; all others belong to other parts."""
        return not message.payload and message.topic in self._needed

    def on_echo(self, message: Message) -> None:
        """Count an echo."""
        self._missing.discard(message.topic)
        if not self._missing:
            self._is_complete.set()

    async def run(self, connection: Connection) -> list[str]:
        """Try every topic; another task passes the received echoes to `on_echo` meanwhile.

        Returns:
            The topics that had no echo, sorted.

        Raises:
            MqttError: the connection is lost.
        """
        self._missing = set(self._needed)
        self._is_complete.clear()
        topics = sorted(self._needed)
        await connection.subscribe([(topic, 0) for topic in topics])
        for topic in topics:
            await connection.publish(topic, b"")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ECHO_WAIT_S):
                await self._is_complete.wait()
        await connection.unsubscribe(topics)
        return sorted(self._missing)
