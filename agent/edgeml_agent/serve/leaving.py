"""Clients that leave: their work is given up. Starlette goes on with a handler whose client has gone.

A handler reads the whole body first: afterwards the connection has nothing more to say but that it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import Request

from edgeml_core.errors import TransportError

#: Nobody is watched for so long: most answers are quicker, and watching costs a task.
GRACE_S: Final = 0.02

T = TypeVar("T")


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, which is cancelled when the client closes its connection.

    Raises:
        TransportError: `client-left`; nobody reads it.
    """
    working = asyncio.ensure_future(work)
    try:
        if not (await asyncio.wait({working}, timeout=GRACE_S))[0]:
            await _first(working, asyncio.ensure_future(_left(request)))
        if working.done():
            return working.result()
        raise TransportError("client-left", "the client closed the connection before it was answered")
    finally:
        working.cancel()


async def _first(working: asyncio.Future[Any], leaving: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
