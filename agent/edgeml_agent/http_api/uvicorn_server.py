"""uvicorn's server as the agent uses it: signals stay the agent's, connections are bounded in number.

Imported only by a running server: uvicorn imports click.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from collections.abc import Generator
from functools import partial
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from edgeml_agent.http_api import open_connections
from edgeml_agent.http_api.acceptor import Acceptor
from edgeml_agent.http_api.connections import H11Connection
from edgeml_agent.http_api.open_connections import OpenConnections

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
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=SHUTDOWN_MAX_S,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # else each malformed request is a line
        self._tls = tls
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections by `Acceptor`; uvicorn has no servers of its own then."""
        files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        make = partial(
            Connection,
            OpenConnections(open_connections.limit(files_max)),
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        self.servers = []
        self._accepting = [asyncio.create_task(Acceptor(it, make, self._tls).run()) for it in sockets or []]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave SIGINT and SIGTERM to the agent; uvicorn would take them."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more; read the requests of connections just accepted before idle ones are closed."""
        for accepting in self._accepting:
            accepting.cancel()
        await asyncio.sleep(LAST_REQUESTS_S)
        await super().shutdown(sockets)
