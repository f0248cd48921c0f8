"""Clients that leave: their work is given up. Starlette goes on with a handler whose client has gone.

A handler reads the whole body first: afterwards the connection has nothing more to say but that it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.requests import Request

from edgeml_core.errors import TransportError

#: Nobody is watched for so long: most answers are quicker, and watching costs a task.
GRACE_S: Final = 0.02

T = TypeVar("T")


async def unless_left(request: Request, work: Awaitable[T]) -> T:
    """What comes of `work`, which is cancelled when the client closes its connection.

    Raises:
        TransportError: `client-left`; nobody reads it.
    """
    loop, watching = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    try:
        async with asyncio.timeout(None) as patience:
            watch = loop.call_later(GRACE_S, lambda: watching.add(loop.create_task(_end_with(request, patience))))
            return await work
    except TimeoutError as error:
        if not patience.expired():
            raise
        raise TransportError("client-left", "the client closed the connection before it was answered") from error
    finally:
        watch.cancel()
        for task in watching:
            task.cancel()


async def _end_with(request: Request, patience: asyncio.Timeout) -> None:
    """When the client leaves, the time is up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    patience.reschedule(asyncio.get_running_loop().time())
