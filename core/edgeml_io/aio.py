"""Wait with a bound in time, in a way that can always be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(work: Awaitable[T], seconds: float | None) -> T:
    """Return the result of `work` if there is one in time; None sets no bound.

    In Python 3.11 `asyncio.wait_for` loses a cancellation that arrives together with the result. A task that calls it
    in a loop then never ends.

    Source: https://github.com/python/cpython/issues/86296

    Raises:
        TimeoutError: there was no result within `seconds`.
    """
    async with asyncio.timeout(seconds):
        return await work
