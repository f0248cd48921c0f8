"""Notifications to systemd: the agent is ready, stops, or is still alive.

Source: sd_notify(3). Without systemd nothing is sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_ALIVE: Final = "WATCHDOG=1"
#: Seconds between two looks whether the agent is ready: far below systemd's start timeout.
_LOOK_EVERY_S: Final = 0.1
_MICROSECONDS: Final = 1e6


class Supervisor:
    """The process that started the agent, if it takes notifications.

    Args:
        environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are read.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        micros = environment.get("WATCHDOG_USEC", "")
        self._watched_s = int(micros) / _MICROSECONDS if is_ours and micros.isdecimal() else 0.0

    def notify(self, message: str) -> None:
        """Send one notification; a supervisor that doesn't listen is ignored."""
        if self._address:
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)  # noqa: FBT003 - the standard library's own signature
                try:
                    channel.sendto(message.encode(), address)
                except OSError:
                    return

    async def run(self, is_ready: Callable[[], bool]) -> None:
        """Notify when the agent is ready; then confirm that the event loop runs, twice per watchdog interval."""
        while not is_ready():  # noqa: ASYNC110 - the daemon has no event for it
            await asyncio.sleep(_LOOK_EVERY_S)
        self.notify(READY)
        while self._watched_s:
            self.notify(_ALIVE)
            await asyncio.sleep(self._watched_s / 2)
