"""uvicorn's server as the agent uses it: signals stay the agent's, connections are bounded in number.

Imported only by a running server: uvicorn imports click.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from edgeml_agent.http_api.connections import CONNECTIONS_MAX, H11Connection

try:
    from edgeml_agent.http_api.eager_connection import EagerConnection as Connection
except ImportError:  # a board without a wheel of httptools
    Connection = H11Connection  # type: ignore[assignment,misc]

#: Seconds that an idle connection is kept; the pools of clients keep theirs about a minute.
KEEP_ALIVE_S: Final = 75
#: Seconds that requests under way may take once the server ends.
SHUTDOWN_MAX_S: Final = 10
#: Seconds between accepting no more and closing idle connections: a connection just accepted brings its request.
LAST_REQUESTS_S: Final = 0.2


class Server(uvicorn.Server):
    """An HTTP server inside the agent's event loop; over TLS where there is a context for it."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
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
        """Leave SIGINT and SIGTERM to the agent; uvicorn would take them."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more; read the requests of connections just accepted before idle ones are closed."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_REQUESTS_S)
        await super().shutdown(sockets)
