"""The listening socket and the HTTP server on it, inside the agent's event loop.

Signals stay the agent's: cancel `serve` to end it. No routes here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from starlette.types import ASGIApp

from edgeml_core.errors import UsageError

#: How long requests under way may take once the server is told to end.
SHUTDOWN_MAX_S: Final = 10
KEEP_ALIVE_S: Final = 75


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts from now on; port 0 takes a free one: `listen(...).getsockname()[1]` is it.

    Raises:
        UsageError: `config-invalid`, when the address isn't this machine's or is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        hint = "set [serve] http in agent.toml to a free address, such as 127.0.0.1:8081"
        raise UsageError("config-invalid", f"can't listen on {host}:{port}: {error.strerror}", hint) from error
    # Connections inherit it. asyncio sets it on sockets made with IPPROTO_TCP only; without it an answer waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer on `listener` until cancelled; then requests under way are finished and the socket is closed."""
    import uvicorn  # noqa: PLC0415 - it brings click along, which nothing but a running server needs

    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_MAX_S,
    )
    server = uvicorn.Server(config)
    # uvicorn would take SIGINT and SIGTERM for itself.
    setattr(server, "capture_signals", contextlib.nullcontext)  # noqa: B010 - a method can't be assigned otherwise
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(running)
    finally:
        server.should_exit = True
        await running
        listener.close()
