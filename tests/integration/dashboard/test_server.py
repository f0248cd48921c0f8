"""The server behind the application: connections that hold places, proxies in front, TLS, addresses."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeml import repository
from edgeml.fleet.web import server
from edgeml.fleet.web.login_limits import PER_ADDRESS_MAX
from edgeml.fleet.web.server import Dashboard, HttpOptions
from edgeml_core.errors import UsageError
from support import certificates
from support.dashboard_app import Site
from support.dashboard_site import NO_BROKER, Journal
from support.waiting import TIMEOUT_S


@asynccontextmanager
async def serving(site: Site, **options: Any) -> AsyncIterator[int]:
    """Serve a site's dashboard on a port of its own."""
    dashboard = Dashboard(HttpOptions(address="127.0.0.1:0", **options))
    running = asyncio.create_task(dashboard.run(repository.opened(site.repo), site.registry, Journal(), NO_BROKER))
    yield int(dashboard.url.rpartition(":")[2])
    running.cancel()
    await asyncio.wait({running})


def test_a_connection_without_a_whole_request_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its first head, and between two requests; a client that drips bytes holds no place."""
    monkeypatch.setattr(server, "IDLE_MAX_S", 0.1)

    async def drip() -> None:
        async with serving(site) as port:
            for whole in (b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(whole + b"GET / HT")
                answered = await reader.read()
                assert answered.startswith(b"HTTP/1.1 200") == bool(whole)
                writer.close()

    asyncio.run(drip())


def test_silent_connections_leave_files_to_the_host(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit a connection is closed at once, and a place that gets free is taken again."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)

    async def connect() -> None:
        async with serving(site) as port:
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            for reader, _ in opened[3:]:
                assert await asyncio.wait_for(_rest(reader), TIMEOUT_S) == b""
            opened[0][1].close()
            while True:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if answered := await asyncio.wait_for(_rest(reader), TIMEOUT_S):
                    break
            assert answered.startswith(b"HTTP/1.1 200")
            for _, one in (*opened, (reader, writer)):
                one.close()

    asyncio.run(connect())


def test_a_client_that_takes_no_answer_holds_no_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again and again, and reads nothing."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(server, "IDLE_MAX_S", 0.2)
    file = b"GET /static/htmx.min.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    health = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    async def ask() -> None:
        async with serving(site) as port:
            with socket.create_connection(("127.0.0.1", port)) as greedy:
                greedy.sendall(file * 400)
                async with asyncio.timeout(TIMEOUT_S):
                    answered = b""
                    while not answered:
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.write(health)
                        answered = await _rest(reader)
                        writer.close()
                assert answered.startswith(b"HTTP/1.1 200")

    asyncio.run(ask())


def test_a_proxy_may_run_on_the_same_machine(site: Site) -> None:
    """It passes the name on that the browser asked for over TLS, and no cookie goes without."""

    async def log_in() -> str:
        async with serving(site, insecure=True) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /login HTTP/1.1\r\nHost: fleet.example\r\nConnection: close\r\n\r\n")
            answered = await reader.read()
            writer.close()
            return answered.decode()

    answered = asyncio.run(log_in())
    assert answered.startswith("HTTP/1.1 200")
    assert re.search(r"set-cookie: __Host-edgeml-login=.*; Secure", answered)


async def _failed_login(port: int, *forwarded: str, source: str = "127.0.0.1") -> int:
    """Fail to log in from an address of this machine, with the header of a proxy; return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    header = "".join(f"X-Forwarded-For: {it}\r\n" for it in forwarded)
    head = f"Host: 127.0.0.1\r\nCookie: edgeml-login=n\r\nConnection: close\r\n{header}"
    form = "name=&password=x&csrf=n"
    kind = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}"
    writer.write(f"POST /login HTTP/1.1\r\n{head}{kind}\r\n\r\n{form}".encode())
    answered = await reader.read()
    writer.close()
    return int(answered.split()[1])


def test_a_trusted_proxy_names_the_clients_that_login_limits_count(site: Site) -> None:
    """One client behind it locks nobody else out, and can't say that it is another one."""

    async def log_in() -> None:
        async with serving(site, proxies=("127.0.0.1", "127.1.0.0/16")) as port:
            for at in range(PER_ADDRESS_MAX):
                assert await _failed_login(port, f"198.51.100.{at}, 192.0.2.1") == 401
            assert await _failed_login(port, "198.51.100.99", "192.0.2.1, 127.1.2.3") == 429
            assert await _failed_login(port, "192.0.2.2") == 401

    asyncio.run(log_in())


@pytest.mark.parametrize("proxies", [(), ("127.0.0.9",)], ids=["no-proxy", "another-proxy"])
def test_the_header_of_an_untrusted_address_is_ignored(site: Site, proxies: tuple[str, ...]) -> None:
    """A client that writes it itself counts by its own address."""

    async def log_in() -> None:
        async with serving(site, proxies=proxies) as port:
            for at in range(PER_ADDRESS_MAX):
                assert await _failed_login(port, f"192.0.2.{at}", source="127.0.0.2") == 401
            assert await _failed_login(port, "192.0.2.99", source="127.0.0.2") == 429
            assert await _failed_login(port, "127.0.0.2", source="127.0.0.3") == 401

    asyncio.run(log_in())


def test_a_silent_connection_over_tls_is_closed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as any other one: it has no more time for its handshake."""
    monkeypatch.setattr(server, "IDLE_MAX_S", 0.1)
    certificates.certify(tmp_path)

    async def wait() -> None:
        async with serving(site, cert=tmp_path / "broker.crt", key=tmp_path / "broker.key") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(_rest(reader), TIMEOUT_S) == b""
            writer.close()

    asyncio.run(wait())


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes the connection, also by a reset."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "options",
    [
        HttpOptions(address="nonsense"),
        HttpOptions(address="0.0.0.0:0"),
        HttpOptions(address="127.0.0.1:0", proxies=("*",)),
        HttpOptions(address="127.0.0.1:0", proxies=("proxy.example",)),
        HttpOptions(address="127.0.0.1:0", cert=Path("cert.pem")),
        HttpOptions(address="127.0.0.1:0", cert=Path("no.pem"), key=Path("no.key")),
    ],
    ids=str,
)
def test_the_server_refuses_unsafe_or_wrong_addresses(options: HttpOptions) -> None:
    """Passwords cross no network without TLS."""
    with pytest.raises(UsageError):
        Dashboard(options)
