"""The threads in which the dashboard reads and writes: few, with a bounded number of waiting requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from edgeml_core.errors import OverloadedError

#: Threads, each of which may hold a connection to the database; and requests that wait for one.
THREADS: Final = 3
WAITING_MAX: Final = 64
Result = TypeVar("Result")


class Threads:
    """Runs blocking functions beside the event loop. Streams look at `is_ending`, and end when it is set.

    Acts have a thread of their own: they wait for the repository's lock, which a command holds for minutes.
    """

    def __init__(self) -> None:
        self._reading = _Pool(THREADS)
        self._acting = _Pool(1)
        self.is_ending = False

    async def run(self, function: Callable[[], Result], *, is_act: bool = False) -> Result:
        """Run a function in a thread.

        Raises:
            OverloadedError: `overloaded`, when too many requests wait.
        """
        return await (self._acting if is_act else self._reading).run(function)

    def close(self) -> None:
        """End behind the functions that run now."""
        self._reading.close()
        self._acting.close()


class _Pool:
    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "dashboard")
        self._waiting = 0

    async def run(self, function: Callable[[], Result]) -> Result:
        if self._waiting >= WAITING_MAX:
            message = f"{self._waiting} requests wait for the dashboard"
            raise OverloadedError("overloaded", message, "try again in a second", retry_after_s=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
