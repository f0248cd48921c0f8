"""Wait until a condition holds, in a thread or on an event loop; the failure names what didn't come.

The limit only ends a test that would hang, so it is generous: no test may depend on how soon a condition holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

TIMEOUT_S: Final = 120.0
#: Seconds between two looks at the condition: short beside anything that a test waits for.
POLL_S: Final = 0.005


def until(holds: Callable[[], object], what: str = "the condition", timeout_s: float = TIMEOUT_S) -> None:
    """Wait in this thread until a condition holds.

    Raises:
        AssertionError: it didn't within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(POLL_S)


async def until_async(holds: Callable[[], object], what: str = "the condition", timeout_s: float = TIMEOUT_S) -> None:
    """Wait as `until`, while other tasks of this event loop run."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(POLL_S)
