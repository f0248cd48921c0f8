"""Clients that finish sending and wait for the answer, and clients that leave: the kernel reports both alike."""

import asyncio
import http.client
import socket
import struct
import threading

import pytest
import uvloop
from tests.integration.test_serving import server, unpacked
from tests.support.waiting import until_async

from edgeml_agent.http_api import uvicorn_server
from edgeml_agent.http_api.connections import H11Connection
from edgeml_agent.http_api.eager_connection import EagerConnection

BODY = b'{"inputs": {"x": [[1, 2, 3, 4]]}}'
HEAD = b"POST /v1/models/tiny/predict HTTP/%s\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
WHOLE = HEAD % (b"1.1", len(BODY)) + BODY
OLD = WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0")


@pytest.fixture(
    params=[
        pytest.param((asyncio.new_event_loop, EagerConnection), id="httptools"),
        pytest.param((uvloop.new_event_loop, EagerConnection), id="httptools on uvloop"),
        pytest.param((asyncio.new_event_loop, H11Connection), id="h11"),
    ],
)
def run(request, monkeypatch):
    """Run a coroutine on the event loop with the connections of an agent."""
    loop, connection = request.param
    monkeypatch.setattr(uvicorn_server, "Connection", connection)

    def running(main):
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(main())

    return running


@pytest.mark.parametrize(("sent", "count"), [(WHOLE, 1), (OLD, 1), (WHOLE + WHOLE, 2)])
def test_a_client_that_has_finished_sending_gets_its_answers(tmp_path, run, sent, count):
    """Also where they take long, and then the connection ends. By h11 the first of several requests is answered."""
    answered = 1 if uvicorn_server.Connection is H11Connection else count
    go_on = threading.Event()

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            blocking = asyncio.create_task(models.run("tiny", lambda _: go_on.wait(60)))
            with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=30) as asking:
                asking.sendall(sent)
                asking.shutdown(socket.SHUT_WR)
                await until_async(lambda: models.find("tiny").queue_depth == 2)
                await asyncio.sleep(0.1)  # some looks at the connection
                go_on.set()
                await blocking
                return await asyncio.to_thread(_answers, asking, answered)

    assert run(main) == [200] * answered


def _answers(connection, count):
    """The statuses of the answers; nothing may follow them."""
    stream = connection.makefile("rb")
    found = []
    for _ in range(count):
        line = stream.readline()
        while line.startswith(b"HTTP/1.1 100"):
            assert stream.readline() == b"\r\n"
            line = stream.readline()
        headers = http.client.parse_headers(stream)
        assert b'"version":"1.0"' in stream.read(int(headers["content-length"]))
        found.append(int(line.split()[1]))
    assert stream.read() == b""
    return found


def test_a_client_that_leaves_takes_its_request_along(tmp_path, run):
    """It closes its socket; what it asked never runs."""
    go_on = threading.Event()

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            blocking = asyncio.create_task(models.run("tiny", lambda _: go_on.wait(60)))
            with socket.create_connection(("127.0.0.1", client.base_url.port)) as asking:
                asking.sendall(WHOLE)
                await until_async(lambda: models.find("tiny").queue_depth == 2)
            await until_async(lambda: models.find("tiny").queue_depth == 1)
            go_on.set()
            await blocking

    run(main)


def test_a_connection_that_is_reset_amid_a_later_request_leaves_no_timer(tmp_path, run, monkeypatch):
    """The first request begins the timer of idle connections, which would keep the connection and the request."""
    made = []
    go_on = threading.Event()

    class Noted(uvicorn_server.Connection):
        def connection_made(self, transport):
            made.append(self)
            super().connection_made(transport)

    monkeypatch.setattr(uvicorn_server, "Connection", Noted)

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            with socket.create_connection(("127.0.0.1", client.base_url.port)) as asking:
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its close is a reset
                asking.sendall(WHOLE)
                await asyncio.to_thread(asking.recv, 4096)
                blocking = asyncio.create_task(models.run("tiny", lambda _: go_on.wait(60)))
                await until_async(lambda: models.find("tiny").queue_depth == 1)
                asking.sendall(WHOLE)
                await until_async(lambda: models.find("tiny").queue_depth == 2)
            await until_async(lambda: models.find("tiny").queue_depth == 1)
            assert made[0].timeout_keep_alive_task is None
            go_on.set()
            await blocking

    run(main)
