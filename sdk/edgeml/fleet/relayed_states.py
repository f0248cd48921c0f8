"""The states of devices behind relays that the host retains on the broker, as other devices retain their own.

One state waits for each device, its newest: a relay that floods holds up no other's, and takes no more memory.
"""

from __future__ import annotations

import asyncio
from typing import Final, NoReturn

from edgeml_core import messages
from edgeml_core.messages import DeviceState, Topics
from edgeml_io.mqtt import Connection

_QOS: Final = 1


class RelayedStates:
    """The states that wait. Devices take turns; a newer state doesn't move its device forward."""

    def __init__(self) -> None:
        self._waiting: dict[str, DeviceState] = {}
        self._arrived = asyncio.Event()

    def put(self, device: str, state: DeviceState) -> None:
        """Let a state wait, in place of an older one."""
        self._waiting[device] = state
        self._arrived.set()

    def clear(self) -> None:
        """Forget all: another host publishes newer ones."""
        self._waiting.clear()

    async def publish(self, connection: Connection, topics: Topics) -> NoReturn:
        """Publish the states, as long as the connection lasts; one that is lost with it waits for the next one."""
        while True:
            while self._waiting:
                device = next(iter(self._waiting))
                state = self._waiting.pop(device)
                try:
                    await connection.publish(topics.state(device), messages.encode(state), qos=_QOS, retain=True)
                except BaseException:
                    self._waiting.setdefault(device, state)
                    raise
            self._arrived.clear()
            await self._arrived.wait()
