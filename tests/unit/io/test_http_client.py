"""Requests in threads: how they end when they take too long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from edgeml_io import http_client
from edgeml_io.http_client import Connection

#: Seconds of a step: longer than any test waits.
STEP_S = 60.0
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: %b\r\nContent-Length: 10\r\n\r\nhalf"


@contextmanager
def serving(answer: bytes) -> Iterator[str]:
    """A server that sends an answer to one client, and is silent from then on."""
    ends = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65_536)
            client.sendall(answer)
            ends.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(STEP_S)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ends.set()
            thread.join()


def times_out(made: Connection, use: Callable[[Connection], object], threads: ThreadPoolExecutor | None = None) -> None:
    """Run a request that takes too long."""
    with pytest.raises(TimeoutError):
        asyncio.run(http_client.run(made, use, timeout_s=0.2, threads=threads))


def read(made: Connection) -> bytes:
    """Read an answer."""
    made.request("GET", "/")
    return made.getresponse().read()


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [("http", ANSWER % b"keep-alive"), ("http", ANSWER % b"close"), ("https", b"")],
    ids=["kept", "closed", "TLS"],
)
def test_server_that_falls_silent_holds_no_thread_past_the_timeout(scheme: str, answer: bytes) -> None:
    """Also one that has announced the end of its connection, or is silent in the handshake: the threads are few."""
    threads = ThreadPoolExecutor(1)
    with serving(answer) as address:
        context = ssl.create_default_context() if scheme == "https" else None
        times_out(Connection(urlsplit(f"{scheme}://{address}"), context, STEP_S), read, threads)
        assert threads.submit(int).result(STEP_S / 2) == 0


def test_socket_that_the_thread_closes_meanwhile_leaves_a_timeout() -> None:
    """Callers expect `FAILURES`; any other error would end the agent or the host."""
    ends = threading.Event()

    def close(made: Connection) -> None:
        made.connect()
        made.close()
        ends.wait(STEP_S)

    with serving(b"") as address, ThreadPoolExecutor(1) as threads:
        times_out(Connection(urlsplit(f"http://{address}"), None, STEP_S), close, threads)
        ends.set()


def test_request_that_was_given_up_opens_no_connection() -> None:
    """A caller that asks again over a new connection, as for chunks, would hold the thread as long once more."""
    threads = ThreadPoolExecutor(1)

    def read_again(made: Connection) -> bytes:
        with contextlib.suppress(*http_client.FAILURES):
            return read(made)
        made.close()
        return read(made)

    with serving(b"") as address:
        times_out(Connection(urlsplit(f"http://{address}"), None, STEP_S), read_again, threads)
        assert threads.submit(int).result(STEP_S / 2) == 0


def test_address_without_a_port_has_that_of_its_scheme() -> None:
    """The last group of an IPv6 address is no port."""
    made = [Connection(urlsplit(url), context, 1) for url, context in (
        ("http://[::1]/", None), ("https://[::1]/", ssl.create_default_context()), ("http://[::1]:81/", None),
    )]  # fmt: skip
    assert [(it.host, it.port) for it in made] == [("::1", 80), ("::1", 443), ("::1", 81)]
