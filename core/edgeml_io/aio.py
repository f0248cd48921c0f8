"""Waiting no longer than a time, for whoever runs an origin or talks to a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(work: Awaitable[T], seconds: float | None) -> T:
    """What comes of `work` in that time; None sets no bound.

    Instead of `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes together with the result: what
    calls it in a loop never ends then.

    Source: https://github.com/python/cpython/issues/86296

    Raises:
        TimeoutError: nothing came.
    """
    async with asyncio.timeout(seconds):
        return await work
