"""uvicorn as the agent needs it: signals stay the agent's, and connections are bounded in number and patience.

Imported only by a running server: it brings click along.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import Final

import uvicorn

from edgeml_agent.http_api.asgi import Application
from edgeml_agent.http_api.fast_path import CONNECTIONS_MAX, KEEP_ALIVE_S, PromptProtocol

#: How long requests under way may take once the server is told to end.
SHUTDOWN_MAX_S: Final = 10
#: Between accepting no more and closing what is idle: a connection just accepted brings its request.
LAST_REQUESTS_S: Final = 0.2


class Server(uvicorn.Server):
    """An HTTP server inside the agent's event loop; over TLS where there is a context for it."""

    def __init__(self, app: Application, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=PromptProtocol,
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
