"""What the requests under way may take together: memory for their bodies, each the time to send its own and to wait.

How long one body may be is `body`'s business, how many requests a model queues `worker`'s, connections `uvicorn`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from edgeml_agent.http_api import page
from edgeml_agent.http_api.asgi import Application
from edgeml_agent.http_api.auth import OPEN_PATHS
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.serve import admission
from edgeml_core.errors import OverloadedError, UsageError

#: Between two pieces of a body.
PIECE_MAX_S: Final = 10.0
#: In a request's scope: the whole body came with its head, so nobody waits for it. `connections` knows.
BODY_IS_HERE: Final = "edgeml.body_is_here"
#: Bodies of all requests under way together.
BODIES_MAX_BYTES: Final = 64 * 1024 * 1024
RETRY_AFTER_S: Final = 1
#: For so long a request waits for the models of the last run.
START_MAX_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.02
#: Who asks these wants to know how things stand now.
AT_ONCE: Final = OPEN_PATHS | {page.MODELS}


class Bounded:
    """ASGI middleware that bounds what bodies take: memory by all requests together, time by each."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; `receive` raises when a bound is passed."""
        held_bytes, is_whole = 0, False
        admission.CLIENT.set(scope.get("client"))  # its connection: uvicorn has a context for each request

        async def bounded() -> Message:
            nonlocal held_bytes, is_whole
            message = await receive() if is_whole or scope.get(BODY_IS_HERE) else await _in_time(receive)
            size_bytes = len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            held_bytes += size_bytes
            self._held_bytes += size_bytes
            if self._held_bytes > BODIES_MAX_BYTES:
                what = "the bodies of all requests together are too long"
                raise OverloadedError("overloaded", what, "try again soon", retry_after_s=RETRY_AFTER_S)
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            self._held_bytes -= held_bytes

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """See `Application`; what is answered at once is held for no time."""
        return self._app.at_once(scope, body)


class UntilReady:
    """ASGI middleware: while the models of the last run are being loaded, requests wait instead of finding none."""

    def __init__(self, app: Application, info: ServerInfo) -> None:
        self._app = app
        self._info = info

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as soon as it makes sense; health and the page are told at once."""
        if not self._info.ready() and scope["path"] not in AT_ONCE:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_MAX_S):
                    while not self._info.ready():  # noqa: ASYNC110 - once in a run, for as long as models load
                        await asyncio.sleep(_LOOK_EVERY_S)
        await self._app(scope, receive, send)

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """See `Application`."""
        return self._app.at_once(scope, body) if self._info.ready() else None


async def _in_time(receive: Receive) -> Message:
    try:
        async with asyncio.timeout(PIECE_MAX_S):
            return await receive()
    except TimeoutError as error:
        message = f"the request broke off: nothing came for {PIECE_MAX_S:.0f} s"
        raise UsageError("input-invalid", message, "send it in one go") from error
