"""uvicorn as the agent needs it: signals stay the agent's, and connections are bounded in number and patience.

Imported only by a running server: it brings click along.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from edgeml_agent.serve import bounds

#: Open connections; past it requests are answered 503.
CONNECTIONS_MAX: Final = 256
#: From the connection, or the first byte of a later request, to the end of the request's head.
HEAD_MAX_S: Final = 10.0
KEEP_ALIVE_S: Final = 75
#: How long requests under way may take once the server is told to end.
SHUTDOWN_MAX_S: Final = 10
#: Between accepting no more and closing what is idle: a connection just accepted brings its request.
LAST_REQUESTS_S: Final = 0.2


class Server(uvicorn.Server):
    """An HTTP server inside the agent's event loop; over TLS where there is a context for it."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=ImpatientProtocol,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=SHUTDOWN_MAX_S,
                ssl_context_factory=None if tls is None else lambda *_: tls,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None: uvicorn would take SIGINT and SIGTERM for itself."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; connections just accepted are not closed before they have said what they want."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_REQUESTS_S)
        await super().shutdown(sockets)


class ImpatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type] # uvicorn chooses the class when imported
    """uvicorn's HTTP on a connection that is closed when it doesn't come to the end of a request's head in time."""

    _closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's transports have no useful base
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._closing = self.loop.call_later(HEAD_MAX_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        has_head = self.cycle is not None and not self.cycle.response_complete
        if has_head:
            self.cycle.scope[bounds.BODY_IS_HERE] = not self.cycle.more_body
            self._forget()
        elif self._closing is None:
            self._closing = self.loop.call_later(HEAD_MAX_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
