"""The HTTP server of the dashboard, in the event loop of `edgeml fleet serve`.

Without TLS it listens on this machine alone, unless the operator asks for another address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn
from weakref import WeakSet

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from edgeml.fleet.link import Broker
from edgeml.fleet.recorder import Events
from edgeml.fleet.registry import Registry
from edgeml.fleet.web import api, rendering
from edgeml.fleet.web.account_pages import AccountPages
from edgeml.fleet.web.accounts import Accounts
from edgeml.fleet.web.calls import DashboardCalls
from edgeml.fleet.web.gateway import Gateway
from edgeml.fleet.web.login import Login
from edgeml.fleet.web.login_limits import LoginLimits
from edgeml.fleet.web.pages import Pages
from edgeml.fleet.web.sessions import Sessions
from edgeml.fleet.web.threads import Threads
from edgeml.fleet.web.view_model import ViewModel
from edgeml.repository import RepositoryFolder
from edgeml_core.errors import UsageError
from edgeml_io import http_hosts

#: Connections at a time: each browser has six at most, and one for each stream of events.
CONNECTIONS_MAX: Final = 500
#: Seconds in which a request's head must arrive; an idle connection is kept for once or twice as long.
IDLE_MAX_S: Final = 20.0
#: Times of `IDLE_MAX_S` in which a client takes nothing of an answer; the kernel takes from us in large parts.
STUCK_MAX: Final = 3
#: Seconds that requests may take once the server ends.
SHUTDOWN_MAX_S: Final = 3
_BACKLOG: Final = 128


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """Where the dashboard listens.

    Args:
        address: HOST:PORT.
        cert: PEM file with the server's certificate, then those up to its authority.
        key: PEM file with the certificate's key, without a password.
        insecure: permit any address and name without TLS: behind a proxy that has it.
        proxies: addresses and networks of proxies, whose `X-Forwarded-For` names the client; all others are ignored.
    """

    address: str
    cert: Path | None = None
    key: Path | None = None
    insecure: bool = False
    proxies: tuple[str, ...] = ()


class Dashboard:
    """The dashboard of one host, listening from the beginning.

    Args:
        options: where.

    Raises:
        UsageError: `usage`, when an address or the certificate can't be used.
    """

    def __init__(self, options: HttpOptions) -> None:
        host, port = _address(options.address)
        self._proxies = [_network(it) for it in options.proxies]
        self._tls = _tls(options)
        self._is_local = http_hosts.is_local(host) and self._tls is None and not options.insecure
        if self._tls is None and not self._is_local and not options.insecure:
            hint = "give --http-cert and --http-key, or listen on 127.0.0.1; --http-insecure is for a proxy with TLS"
            raise UsageError("usage", f"without TLS passwords would cross the network to {options.address}", hint)
        #: Whether browsers reach it over TLS alone, its own or a proxy's.
        self._is_secure = self._tls is not None or options.insecure
        self._socket = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if self._tls else 'http'}://{shown}:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def run(self, repository: RepositoryFolder, registry: Registry, events: Events, broker: Broker) -> NoReturn:
        """Serve until cancelled. Devices are called at `broker`."""
        threads = Threads()
        app = make(repository, registry, threads, broker, is_secure=self._is_secure, is_local=self._is_local)
        server = _Server(app, self._tls, self._proxies)
        events.event("dashboard", f"dashboard at {self.url}", url=self.url)
        serving = asyncio.create_task(server.serve([self._socket]))
        try:
            await asyncio.shield(serving)
        finally:
            threads.is_ending = server.should_exit = True
            await asyncio.wait({serving})
            threads.close()
            self.close()
        raise AssertionError("the server ends by cancellation alone")


def make(
    repository: RepositoryFolder,
    registry: Registry,
    threads: Threads,
    broker: Broker,
    *,
    is_secure: bool,
    is_local: bool,
) -> Starlette:
    """Make the application of a fleet.

    Args:
        repository: opened; its fleet key signs what operators do to rollouts.
        registry: the devices' states, and the database of accounts.
        threads: run what blocks.
        broker: where devices are called, as the host reaches it.
        is_secure: whether browsers reach it over TLS alone.
        is_local: whether requests must name this machine.
    """
    accounts, sessions = Accounts(registry.database), Sessions(registry.database)
    view = ViewModel(repository, registry)
    pages, limits = Pages(view, threads), LoginLimits()
    endpoints = {
        **api.endpoints(view, repository, accounts, threads),
        **Login(accounts, sessions, limits, is_secure=is_secure).endpoints(),
        **pages.endpoints(),
        **AccountPages(repository, accounts, limits).endpoints(),
        **DashboardCalls(repository, registry, broker, threads, pages).endpoints(),
    }
    rules = {"is_secure": is_secure, "is_local": is_local}
    return Gateway(accounts, sessions, endpoints, rendering.error_page, threads, **rules).app


class _Listener(socket.socket):
    """A listening socket that closes connections past the limit, so that silent clients leave files to the host.

    It counts them from their first moment: the server knows of one over TLS after its handshake only.
    """

    def __init__(self, bound: socket.socket) -> None:
        super().__init__(fileno=bound.detach())
        self._accepted: WeakSet[socket.socket] = WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; the event loop takes the exception for that of a client that has left."""
        accepted, peer = super().accept()
        if sum(it.fileno() >= 0 for it in self._accepted) >= CONNECTIONS_MAX:
            accepted.close()
            raise ConnectionAbortedError
        self._accepted.add(accepted)
        return accepted, peer


class _Connection(H11Protocol):
    """A connection that is closed when for a while its client sends no whole request, or takes nothing of an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look at it."""
        super().connection_made(transport)
        self._looked_at: RequestResponseCycle | None = None
        self._untaken_bytes = self._stuck = 0
        self._look = self.loop.call_later(IDLE_MAX_S, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look at it no more."""
        self._look.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        untaken_bytes = self.transport.get_write_buffer_size()
        is_same = self.cycle is self._looked_at
        self._stuck = self._stuck + 1 if is_same and 0 < self._untaken_bytes <= untaken_bytes else 0
        if self._stuck == STUCK_MAX:
            self.transport.abort()
            return
        if is_idle and is_same:
            self.transport.close()  # when the rest is taken
        self._looked_at, self._untaken_bytes = self.cycle, untaken_bytes
        self._look = self.loop.call_later(IDLE_MAX_S, self._close_if_idle)


class _Server(uvicorn.Server):
    """uvicorn's server; signals stay the service's."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext | None, proxies: list[str]) -> None:
        config = uvicorn.Config(
            app,
            http=_Connection,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            timeout_keep_alive=int(2 * IDLE_MAX_S),
            timeout_graceful_shutdown=SHUTDOWN_MAX_S,
        )
        super().__init__(config)
        # A client has as long for the handshake as for a head.
        self._tls: dict[str, Any] = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": IDLE_MAX_S}
        # Each malformed request would be a line.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        make = partial(_Connection, config=self.config, server_state=self.server_state, app_state={})
        self.servers = [await loop.create_server(make, sock=it, **self._tls) for it in sockets or []]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave SIGINT and SIGTERM to the service."""
        yield


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise UsageError("usage", f"{text!r} is no address of the dashboard", "write HOST:PORT, as 127.0.0.1:8000")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _network(text: str) -> str:
    """Check a proxy's address, which uvicorn would take for a name that no client has."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        hint = "write an address or a network, as 127.0.0.1 or 10.1.0.0/16"
        raise UsageError("usage", f"{text!r} is no address of a proxy: {error}", hint) from error


def _tls(options: HttpOptions) -> ssl.SSLContext | None:
    if options.cert is None and options.key is None:
        return None
    if options.cert is None or options.key is None:
        raise UsageError("usage", "a certificate needs its key", "give both --http-cert and --http-key")
    loaded = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    loaded.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        loaded.load_cert_chain(options.cert, options.key, password=_no_password)
    except (OSError, ValueError) as error:
        hint = "give PEM files that belong together; the key without a password"
        message = f"the certificate {options.cert} and the key {options.key} can't be used: {error}"
        raise UsageError("usage", message, hint) from error
    return loaded


def _no_password() -> str:
    """Refuse a password; OpenSSL would ask for one at a terminal."""
    raise ValueError("the key has a password")


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _Listener(socket.create_server(found[4][:2], family=found[0], backlog=_BACKLOG))
    except OSError as error:
        raise UsageError("usage", f"can't listen on {host}:{port}: {error}", "name another --http") from error
