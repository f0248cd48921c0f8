"""Waits with a bound in time that can always be cancelled, and the one error of a group of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NoReturn, TypeVar

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


def raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the first error of a group by itself, with its own cause."""
    error = first_error(group)
    raise error from error.__cause__


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a task, also of one in a group of its own."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
