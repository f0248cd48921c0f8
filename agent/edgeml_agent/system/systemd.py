"""What systemd is told of the agent: that it is ready, that it stops, and now and then that it still lives.

Source: sd_notify(3). Without systemd nothing is told.
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
_LOOK_EVERY_S: Final = 0.1
_MICROSECONDS: Final = 1e6


class Supervisor:
    """The one that started the agent, if it wants to hear.

    Args:
        environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are read.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        micros = environment.get("WATCHDOG_USEC", "")
        self._watched_s = int(micros) / _MICROSECONDS if is_ours and micros.isdecimal() else 0.0

    def tell(self, what: str) -> None:
        """Send one notification; a supervisor that doesn't listen is its own business."""
        if self._address:
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as road:
                road.setblocking(False)  # noqa: FBT003 - the standard library's own signature
                try:
                    road.sendto(what.encode(), address)
                except OSError:
                    return

    async def run(self, is_ready: Callable[[], bool]) -> None:
        """Say when the agent is ready; from then on that its event loop turns, twice as often as is asked."""
        while not is_ready():  # noqa: ASYNC110 - the daemon is ready once, and tells nobody
            await asyncio.sleep(_LOOK_EVERY_S)
        self.tell(READY)
        while self._watched_s:
            self.tell(_ALIVE)
            await asyncio.sleep(self._watched_s / 2)
