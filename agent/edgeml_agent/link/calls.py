"""Calls to this device, in the order of their arrival; `edgeml_agent.probe.remote_calls` answers them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from edgeml_io.mqtt import Message

#: Calls that wait for an answer: a call runs for up to a minute, and its caller waits no longer than that.
CALLS_QUEUED_MAX: Final = 4


class CallQueue:
    """The payloads of calls; the newest of more than `CALLS_QUEUED_MAX` are dropped."""

    def __init__(self) -> None:
        self._payloads: asyncio.Queue[bytes] = asyncio.Queue(CALLS_QUEUED_MAX)

    def on_message(self, message: Message) -> None:
        """Queue a call. A retained one is dropped: its caller has stopped waiting."""
        with contextlib.suppress(asyncio.QueueFull):
            if not message.retain:
                self._payloads.put_nowait(message.payload)

    async def next(self) -> bytes:
        """Wait for the next call; nothing in it is trusted."""
        return await self._payloads.get()
