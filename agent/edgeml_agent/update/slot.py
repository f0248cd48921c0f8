"""The update slot: one update at a time on a device, and none beside `edgeml-agent install`.

Updates share the link, the disk and the memory. A lock in this process excludes other updates, and a lock file excludes
other processes. Background work runs only while no update holds the slot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, Final

from edgeml_agent import log
from edgeml_agent.ports import Clock
from edgeml_agent.store import locks

#: Seconds between two tries to take the lock file; an operator's install takes seconds to minutes.
LOCK_RETRY_EVERY_S: Final = 1.0


class UpdateSlot:
    """The exclusive right to change the store in `folder`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / locks.UPDATE
        self._clock = clock
        self._lock = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Cancel background work, wait for other updates and processes, and hold the slot.

        Raises:
            DeviceError: `store-failed`, when the lock file can't be made.
        """
        if self._background is not None:
            self._background.cancel()
        async with self._lock:
            with await self._take_file():
                yield

    async def run_in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run low-priority work to its end, unless an update holds the slot. An update that starts cancels it."""
        if self._lock.locked():
            return
        task = self._background = asyncio.create_task(work())
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            log.defect("background work failed", error)

    async def _take_file(self) -> BinaryIO:
        while (lock := locks.take(self._path)) is None:
            await self._clock.sleep(LOCK_RETRY_EVERY_S)
        return lock
