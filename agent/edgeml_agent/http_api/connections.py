"""Limits of heads, and requests whose clients disconnect; HTTP on a connection by h11.

Imported only by a running server, as `uvicorn_server`. `eager_connection` is HTTP by httptools.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeml_agent.http_api import request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Open connections; past it requests are answered 503. Each takes about 20 kB.
CONNECTIONS_MAX: Final = 256
#: Seconds from the connection, or the first byte of a later request, to the end of the request's head.
HEAD_MAX_S: Final = 10.0
#: Bytes of a head. h11 has a bound of its own, also 64 KiB.
HEAD_MAX_BYTES: Final = 64 * 1024


class HeadDeadline:
    """Closes a connection unless the end of a head is read in time."""

    def __init__(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's transports have no useful base
        self._transport = transport
        self._closing: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether a head is awaited."""
        return self._closing is not None

    def begin(self) -> None:
        """Start the time of a head, unless it runs already."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(HEAD_MAX_S, self._transport.close)

    def end(self) -> None:
        """Stop it: the head has been read."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None


def cancel(scope: Any, task: asyncio.Task[Any] | None) -> None:  # noqa: ANN401 - uvicorn's own types of scopes
    """Cancel a request whose client has disconnected, where that is of use."""
    scope[request.HAS_LEFT] = True
    if task is not None and request.IS_CANCELLABLE in scope:
        task.cancel()


class H11Connection(H11Protocol):
    """HTTP by h11, for boards without httptools; it has no eager start."""

    _task: asyncio.Task[Any] | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as `HeadDeadline`
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.app = self._noting_task
        self._head = HeadDeadline(transport)
        self._head.begin()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._head.begin()
        else:
            self._head.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head.end()
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            cancel(self.cycle.scope, self._task)

    async def _noting_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._task = asyncio.current_task()
        app: ASGIApp = self.config.loaded_app
        await app(scope, receive, send)
