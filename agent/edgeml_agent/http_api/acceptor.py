"""Accepts connections one by one, each counted from its first moment, and begins TLS on them.

The event loop's own servers accept as many as wait, and count a connection over TLS after its handshake only: silent
clients could take every file that the process may open.

Imported only by a running server, as `uvicorn_server`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from edgeml_agent.http_api.connections import HEAD_MAX_S, BoundedConnection

#: Connections that wait in the kernel to be accepted; a fleet's clients all come back after a restart.
WAITING_MAX: Final = 1024
#: Seconds until connections are accepted again, when the process or the system has no file left.
NO_FILE_PAUSE_S: Final = 0.1


class Acceptor:
    """Accepts the connections of a listening socket.

    Args:
        make: makes the protocol of a connection.
        tls: None without TLS.
    """

    def __init__(
        self, listener: socket.socket, make: Callable[[], BoundedConnection], tls: ssl.SSLContext | None
    ) -> None:
        self._listener = listener
        self._make = make
        # A client has as long for the handshake as for a head.
        self._tls: dict[str, Any] = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": HEAD_MAX_S}
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Accept connections until cancelled; those that are open stay so, and those that wait go on waiting."""
        loop = asyncio.get_running_loop()
        self._listener.settimeout(0.0)
        self._listener.listen(WAITING_MAX)
        while True:
            await self._readable()
            try:
                accepted, peer = self._listener.accept()
            except BlockingIOError:  # its client has left
                continue
            except OSError:
                await asyncio.sleep(NO_FILE_PAUSE_S)
                continue
            accepted.settimeout(0.0)
            connection = self._make()
            opening = loop.create_task(self._open(connection, accepted))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
            connection.begin(peer[0], opening)

    async def _readable(self) -> None:
        """Wait until a connection waits. The loop's `sock_accept` would lose one that comes as it is cancelled."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._listener, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._listener)

    async def _open(self, connection: BoundedConnection, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, **self._tls)  # type: ignore[type-var] # it is mixed in
        except OSError:  # the client speaks no TLS that is served, is too slow, or has left
            connection.give_up()
        except asyncio.CancelledError:  # the connection was closed for another
            accepted.close()
            connection.give_up()
            raise
