"""Messages that wait to be published with QoS 1, oldest first, bounded in number.

A message stays in the outbox until the broker has acknowledged it. The connection may end between PUBLISH and PUBACK,
and then the next connection publishes the message again. So the host may receive a message twice, but misses none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec

from edgeml_core.calls import Reply
from edgeml_core.messages import Report

#: Messages in the outbox: a device publishes some ten in one update, and an absent broker must not fill its memory.
OUTBOX_MAX_MESSAGES: Final = 256


class Forwarded(msgspec.Struct, frozen=True):
    """A message that a topic handler publishes: its topic and payload are complete."""

    topic: str
    payload: bytes


#: A message in the outbox; a report receives the session of the connection that publishes it.
Outgoing = Report | Reply | Forwarded


class Outbox:
    """The queue; the oldest of more than `OUTBOX_MAX_MESSAGES` is dropped."""

    def __init__(self) -> None:
        self._messages: deque[Outgoing] = deque(maxlen=OUTBOX_MAX_MESSAGES)
        self._added = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def add(self, message: Outgoing) -> None:
        """Append a message."""
        self._messages.append(message)
        self._added.set()
        self._emptied.clear()

    async def oldest(self) -> Outgoing:
        """Wait for the oldest message; it stays in the outbox.

        Returns:
            The same message at every call, until `remove` takes it out or newer ones displace it.
        """
        while not self._messages:
            self._added.clear()
            await self._added.wait()
        return self._messages[0]

    def remove(self, message: Outgoing) -> None:
        """Take out the oldest message after its acknowledgement, unless newer ones have displaced it meanwhile."""
        if self._messages and self._messages[0] is message:
            self._messages.popleft()
        if not self._messages:
            self._emptied.set()

    async def is_emptied(self) -> None:
        """Wait until every message has been acknowledged."""
        await self._emptied.wait()
