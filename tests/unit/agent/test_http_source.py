"""Chunks over a real HTTP server on this machine first, and over the broker where that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from edgeml_agent.fetch import http_source
from edgeml_agent.fetch.http_source import ChunkServer, HttpChunks
from edgeml_agent.ports import Arrival
from edgeml_core import chunks, wire_keys
from support.waiting import until

CONTENT = {wire_keys.chunk_id(chunks.sha256(it)): chunks.to_wire(it) for it in (b"one", b"two" * 9000, b"three")}
KEYS = list(CONTENT)


class Files(BaseHTTPRequestHandler):
    """The files of a mirror; the server's `fault` says what goes wrong."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a file."""
        self.server.paths.append(self.path)
        self.server.clients.add(self.client_address)
        body = CONTENT.get(self.path.rpartition("/")[2])
        fault = self.server.fault
        if fault == "hangs":
            self.server.ended.wait(5)
        status = 500 if fault == "fails" else 404 if body is None else 302 if fault == "redirects" else 200
        body = b"x" * 200_000 if fault == "is long" else body or b""
        self.send_response(status)
        if fault == "has no length":
            self.close_connection = True
        elif fault == "comes in parts":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(it), it) for it in (body[:1], body[1:], b""))
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "is cut" else body)
        self.close_connection |= fault in {"is cut", "closes"}

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(fault: str = "") -> Iterator[ThreadingHTTPServer]:
    """A server on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.daemon_threads = True
    server.paths, server.clients, server.fault, server.ended = [], set(), fault, threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()


class Broker:
    """A source that has every chunk, and keeps what it is asked."""

    position = ""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()

    async def follow(self, release: str) -> None:
        """Do nothing."""

    async def want(self, keys) -> None:
        """Send them at once."""
        self.wanted += keys
        for key in keys:
            self._arrivals.put_nowait(Arrival(key=key, payload=CONTENT[wire_keys.ids(key)[0]]))

    async def receive(self, timeout_s: float) -> Arrival | None:
        """Return the next one."""
        return await self._arrivals.get()

    async def drop(self, keys) -> None:
        """Do nothing."""


def fetched(url: str, *rounds: list[str]) -> tuple[list[Arrival], Broker]:
    """The arrivals after each round of requests, and the broker's source."""

    async def run() -> tuple[list[Arrival], Broker]:
        broker = Broker()
        source = HttpChunks(ChunkServer(url=urlsplit(url)), broker)
        await source.follow("a" * 32)
        found = []
        for keys in rounds:
            await source.want(keys)
            for _ in keys:
                arrival = await source.receive(60)
                assert arrival is not None
                found.append(arrival)
            await source.drop(keys)
        await source.follow("")
        return found, broker

    return asyncio.run(run())


def test_chunks_come_over_http_alone():
    """Also where a delta was requested; few connections carry many requests."""
    with_base = [f"{key}/{KEYS[0]}" for key in KEYS]
    with serving() as server:
        found, broker = fetched(f"http://127.0.0.1:{server.server_port}/chunks/", with_base)
    assert {it.key: it.payload for it in found} == {key: CONTENT[wire_keys.ids(key)[0]] for key in with_base}
    assert broker.wanted == []
    assert sorted(server.paths) == sorted(f"/chunks/{key[:2]}/{key}" for key in KEYS)


def test_connections_are_kept_and_opened_again():
    """A server that closes them after each answer costs no chunk over the broker."""
    for fault, clients in (("", 1), ("closes", 3)):
        with serving(fault) as server:
            _, broker = fetched(f"http://127.0.0.1:{server.server_port}", *([key] for key in KEYS))
        assert (broker.wanted, len(server.clients)) == ([], clients)


@pytest.mark.parametrize("form", ["has no length", "comes in parts"])
def test_answers_of_other_forms_are_read(form: str):
    """Caches stream a file whose length they don't know yet."""
    with serving(form) as server:
        found, broker = fetched(f"http://127.0.0.1:{server.server_port}", KEYS)
    assert {it.key: it.payload for it in found} == CONTENT
    assert broker.wanted == []


@pytest.mark.parametrize("fault", ["fails", "redirects", "is long", "is cut", "hangs"])
def test_broker_sends_chunks_that_http_does_not_give(fault: str, monkeypatch):
    """After some failures it is asked at once."""
    if fault == "hangs":
        monkeypatch.setattr(http_source, "TIMEOUT_S", 0.3)
    with serving(fault) as server:
        found, broker = fetched(f"http://127.0.0.1:{server.server_port}", KEYS, KEYS)
        assert sorted(broker.wanted) == sorted(KEYS * 2)
        until(lambda: len(server.paths) >= len(KEYS), "the server's threads have read what they were sent")
        assert len(server.paths) == len(KEYS)
    assert len(found) == 2 * len(KEYS)


def test_chunk_that_is_requested_again_comes_over_the_broker():
    """The cache's copy was wrong."""
    with serving() as server:
        _, broker = fetched(f"http://127.0.0.1:{server.server_port}", [KEYS[0]], [KEYS[0]])
        assert (broker.wanted, len(server.paths)) == ([KEYS[0]], 1)


def test_absent_server_costs_no_fetch():
    """Nor a chunk that the mirror lacks."""
    with serving() as server:
        url = f"http://127.0.0.1:{server.server_port}"
    assert fetched(url, KEYS)[1].wanted != []


def test_limit_counts_the_chunks_of_both_sources():
    """Else a mirror without some chunks doubles the rate of a metered link."""

    async def run() -> float:
        source = HttpChunks(ChunkServer(url=urlsplit(f"http://127.0.0.1:{server.server_port}")), Broker(), 100)
        await source.follow("a" * 32)
        began_s = asyncio.get_running_loop().time()
        await source.want(KEYS)
        arrived_bytes = sum([len((await source.receive(60)).payload) for _ in KEYS])
        await source.want(KEYS)
        await source.follow("")
        return (asyncio.get_running_loop().time() - began_s) * 100 / arrived_bytes

    with serving("fails") as server:
        assert asyncio.run(run()) > 0.5
