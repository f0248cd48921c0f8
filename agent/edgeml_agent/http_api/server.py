"""The listening socket, made here or inherited, and the HTTP server on it, inside the agent's event loop.

An agent with an inherited socket refuses no connection while it restarts: systemd keeps the socket, in which
connections wait. Signals stay the agent's: cancel `serve` to end it. No routes here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp

from edgeml_agent import log
from edgeml_core.errors import UsageError

#: File descriptor of the first socket that systemd passes.
_FIRST_FD: Final = 3


def inherited_or_new(environment: Mapping[str, str], host: str, port: int) -> socket.socket:
    """Take the socket that systemd passed, and log it where its address isn't the one given; else open one there.

    Raises:
        UsageError: as `inherited` and `listen`.
    """
    found = inherited(environment)
    if found is None:
        return listen(host, port)
    address = found.getsockname()[:2]
    if address not in _addresses(host, port):
        message = f"systemd's socket listens on {address[0]}:{address[1]}, not on {host}:{port}, which has no effect"
        hint = "set ListenStream of edgeml-agent.socket, and [serve] http in agent.toml, to the same address"
        log.failure("listening elsewhere", UsageError("config-invalid", message, hint))
    return found


def _addresses(host: str, port: int) -> set[tuple[object, ...]]:
    """Return the addresses that a name and a port mean; none for a name that isn't known."""
    try:
        return {it[4][:2] for it in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def inherited(environment: Mapping[str, str]) -> socket.socket | None:
    """Take the socket that systemd passed to this process; None when there is none.

    Source: sd_listen_fds(3). The variables are meant only for the process that LISTEN_PID names.

    Raises:
        UsageError: `config-invalid`, when it is not one listening TCP socket.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    hint = "give the unit one ListenStream, such as 127.0.0.1:8080"
    if environment.get("LISTEN_FDS") != "1":
        raise UsageError(
            "config-invalid",
            f"the agent was started with {environment.get('LISTEN_FDS')!r} sockets, not with one",
            hint,
        )
    listener = socket.socket(fileno=_FIRST_FD)
    is_tcp = listener.type is socket.SOCK_STREAM and listener.family in {socket.AF_INET, socket.AF_INET6}
    if not is_tcp or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError("config-invalid", "the agent was started with a socket that doesn't listen for TCP", hint)
    return _without_delay(listener)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that accepts connections. Port 0 takes a free one: `listen(...).getsockname()[1]` is it.

    Raises:
        UsageError: `config-invalid`, when the address isn't this host's or is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        hint = "set [serve] http in agent.toml to a free address, such as 127.0.0.1:8081"
        raise UsageError("config-invalid", f"can't listen on {host}:{port}: {error.strerror}", hint) from error
    return _without_delay(listener)


async def serve(app: ASGIApp, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
    """Answer on `listener` until cancelled; then requests under way are finished and the socket is closed."""
    from edgeml_agent.http_api.uvicorn_server import Server  # noqa: PLC0415 - see there

    server = Server(app, tls)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(running)
    finally:
        server.should_exit = True
        await running
        listener.close()


def _without_delay(listener: socket.socket) -> socket.socket:
    # Connections inherit it. asyncio sets it on sockets made with IPPROTO_TCP only; without it an answer waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
