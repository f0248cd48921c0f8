"""Time that passes only when nothing else can run: a coroutine that sleeps for a minute is done at once.

Both the event loop's clock and `time.monotonic` follow it. Threads don't: a test that uses them needs the real clock.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


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
    with mock.patch.object(time, "monotonic", clock):
        loop = asyncio.SelectorEventLoop(_Selector(clock))
        try:
            return loop.run_until_complete(main(clock))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
