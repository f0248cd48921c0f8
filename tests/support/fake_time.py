"""Time that passes only when nothing else can run: a coroutine that sleeps for a minute is done at once.

Both the event loop's clock and `time.monotonic` follow it. Work for a thread is done at once, on the loop: a thread
would race against time that jumps.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar
from unittest import mock

T = TypeVar("T")
#: Fake seconds after which a condition counts as failed: beyond the sum of all delays of a link.
UNTIL_MAX_S: Final = 1000.0


class FakeTime:
    """The clock, in seconds."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


class _Selector(selectors.DefaultSelector):
    """A selector that moves the clock instead of waiting."""

    def __init__(self, clock: FakeTime) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where nothing is, let `timeout` pass."""
        assert timeout is not None, "every task waits, and no timer would end it"
        found = super().select(0)
        if not found:
            self._clock.now_s += max(timeout, 0.0)
        return found


def run(main: Callable[[FakeTime], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in fake time."""
    clock = FakeTime()
    with mock.patch.object(time, "monotonic", clock), mock.patch.object(asyncio, "to_thread", _at_once):
        loop = asyncio.SelectorEventLoop(_Selector(clock))
        try:
            return loop.run_until_complete(main(clock))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


async def _at_once(work: Callable[..., T], *arguments: Any) -> T:
    return work(*arguments)


async def until(holds: Callable[[], object]) -> None:
    """Let time pass until something holds."""
    async with asyncio.timeout(UNTIL_MAX_S):
        while not holds():  # noqa: ASYNC110 - another task makes it hold
            await asyncio.sleep(0.1)
