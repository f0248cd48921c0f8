"""Limits of heads, clients that disconnect, clients that have finished sending; HTTP on a connection by h11.

Imported only by a running server, as `uvicorn_server`. `eager_connection` is HTTP by httptools.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeml_agent.http_api import request
from edgeml_agent.http_api.open_connections import OpenConnections
from edgeml_io.http_hosts import address_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Seconds from the connection, or the first byte of a later request, to the end of the request's head.
HEAD_MAX_S: Final = 10.0
#: Bytes of a head. h11 has a bound of its own, also 64 KiB.
HEAD_MAX_BYTES: Final = 64 * 1024
#: Seconds between two looks at a connection whose client has finished sending, the first and the longest one.
LOOK_MIN_S: Final = 0.02
LOOK_MAX_S: Final = 1.0
#: An interim response, which clients of HTTP/1.1 skip (RFC 9110, section 15.2).
_INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


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


class HalfClosed:
    """A connection whose client has finished sending: closes it if the client has gone.

    The kernel reports both in the same way: nothing more will come. A client that has gone refuses all that is sent to
    it, so an interim response tells them apart. HTTP/1.0 has none: its clients are taken to be there.
    """

    def __init__(self, transport: Any, *, may_ask: bool) -> None:  # noqa: ANN401 - as `HeadDeadline`
        self._transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        if may_ask:
            transport.write(_INTERIM)
        self._look(LOOK_MIN_S)

    def _look(self, wait_s: float) -> None:
        if self._transport.is_closing():
            return
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        asyncio.get_running_loop().call_later(wait_s, self._look, min(2 * wait_s, LOOK_MAX_S))


def cancel(scope: Any, task: asyncio.Task[Any] | None) -> None:  # noqa: ANN401 - uvicorn's own types of scopes
    """Cancel a request whose client has disconnected, where that is of use."""
    scope[request.HAS_LEFT] = True
    if task is not None and request.IS_CANCELLABLE in scope:
        task.cancel()


class BoundedConnection:
    """The common part of both kinds of connections: their place among the open ones, and the end of a client's data.

    To be inherited before one of uvicorn's protocols.
    """

    # uvicorn's protocols have these.
    transport: Any
    flow: Any
    cycle: Any
    client: Any
    scheme: Any
    loop: Any

    def __init__(self, open_connections: OpenConnections, **uvicorns: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(**uvicorns)
        self.address = ""
        self._open_connections = open_connections
        self._opening: asyncio.Task[None] | None = None
        self._last_byte_s = 0.0

    def begin(self, host: str, opening: asyncio.Task[None]) -> None:
        """Count the connection; `opening` brings it to `connection_made`, over TLS after the handshake."""
        self.address, self._opening, self._last_byte_s = address_of(host), opening, self.loop.time()
        self._open_connections.add(self)

    def give_up(self) -> None:
        """Forget the connection, which wasn't opened."""
        self._open_connections.remove(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._open_connections.remove(self)
        super().connection_lost(exc)  # type: ignore[misc] # see above

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._last_byte_s = self.loop.time()
        super().resume_writing()  # type: ignore[misc] # see above

    def eof_received(self) -> bool | None:
        """Keep a connection open until its requests are answered; TLS has no half-closed connections."""
        if self.scheme == "https" or not self._is_answering or self.cycle.more_body:
            return None
        self.cycle.keep_alive = False
        scope = self.cycle.scope
        HalfClosed(self.transport, may_ask=scope["http_version"] == "1.1" and not self._has_begun_answer)
        return True

    def waits_since_s(self) -> float | None:
        """See `open_connections.Connection`."""
        waits_for_body = self._is_answering and self.cycle.more_body and not self.flow.read_paused
        waits = not self._is_answering or waits_for_body or self.flow.write_paused
        return self._last_byte_s if waits else None

    def abort(self) -> None:
        """See `open_connections.Connection`."""
        if self.transport is not None:
            self.transport.abort()
        elif self._opening is not None:
            self._opening.cancel()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _has_begun_answer(self) -> bool:
        """Whether a part of an answer was sent."""
        return bool(self.cycle.response_started)

    def _note_room(self, scope: Any) -> None:  # noqa: ANN401 - uvicorn's own types of scopes
        if not self._open_connections.has_room(self):
            scope[request.HAS_NO_ROOM] = True


class H11Connection(BoundedConnection, H11Protocol):  # type: ignore[misc] # uvicorn never keeps half a connection
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
        self._last_byte_s = self.loop.time()
        super().data_received(data)
        if self._is_answering:
            self._head.end()
        else:
            self._head.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head.end()
        super().connection_lost(exc)
        if self._is_answering:
            cancel(self.cycle.scope, self._task)

    async def _noting_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._task = asyncio.current_task()
        app: ASGIApp = self.config.loaded_app
        self._note_room(scope)
        self._open_connections.begin(self)
        try:
            await app(scope, receive, send)
        finally:
            self._open_connections.end(self)
            self._last_byte_s = self.loop.time()
