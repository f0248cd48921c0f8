"""Waits that can always be cancelled, work that a cancellation lets end, and the one error of a group of tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, NoReturn, TypeVar

_log = logging.getLogger(__name__)

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
    """Run `work` to its end even if the caller is cancelled, so that disk and memory stay in step.

    The cancellation is raised after that. An error of the work behind it is logged.
    """
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as caught:
            cancelled = caught
    if cancelled is None or task.cancelled():
        return task.result()
    if error := task.exception():
        _log.warning("work failed after its caller was cancelled", exc_info=error)
    raise cancelled


def raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the first error of a group by itself, with its own cause."""
    error = first_error(group)
    raise error from error.__cause__


def first_error(error: BaseException) -> BaseException:
    """Return the first error of a group of tasks, also of one in a group of its own; any other error as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
