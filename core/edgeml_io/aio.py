"""Waits that can always be cancelled, work that a cancellation lets end, and the one error of a group of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, NoReturn, TypeVar

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


async def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if the caller is cancelled, so that disk and memory stay in step."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the first error of a group by itself, with its own cause."""
    error = first_error(group)
    raise error from error.__cause__


def first_error(error: BaseException) -> BaseException:
    """Return the first error of a group of tasks, also of one in a group of its own; any other error as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
