"""Requests on real connections: which are answered in the callback that read them, and that no check is lost."""

import asyncio
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from functools import partial
from pathlib import Path

import pytest
from tests.integration.test_serving import INFER, PREDICT, unpacked

from edgeml_agent.http_api.app import build
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.server import listen, serve
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import INLINE_MAX_BYTES, Worker
from edgeml_runtime.model import Model

#: Seconds for all requests of one test, on a busy host.
TIMEOUT_S = 120
#: Of the server's sockets: small, so that a client that reads no answers is soon stopped.
BUFFER_BYTES = 16 * 1024
TOKEN = "a-token-of-24-characters"


class _Noted:
    """The application; notes of each request whether it was answered without a task."""

    def __init__(self, app):
        self._app = app
        self.ways = []

    async def __call__(self, scope, receive, send):
        await self._app(scope, receive, send)
        self.ways.append("once" if asyncio.current_task() is None else "task")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The tiny model counts as quick, however busy the host is."""
    monkeypatch.setattr(Worker, "is_quick", True)
    monkeypatch.setattr(Worker, "_is_short", lambda _, size_bytes, longest_s=0.0: size_bytes <= INLINE_MAX_BYTES)


def talked(folder, talk, rules=None):
    """Run `talk` with a reader and a writer of one connection; return its result and the ways of its requests."""

    async def main():
        models = Models()
        listener = listen("127.0.0.1", 0)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # connections inherit them
            listener.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        app = _Noted(build(models, ServerInfo(device="d", version="1"), rules or Rules()))
        running = asyncio.create_task(serve(app, listener))
        await models.activate("tiny", *unpacked(folder))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(TIMEOUT_S):
            said = await talk(reader, writer)
        writer.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await models.close()
        return said, app.ways

    return asyncio.run(main())


def request(first, path=INFER, *headers, body=None, host="localhost"):
    """A request whose first number is `first`."""
    row = [first, 0, 0, 0]
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row}
    content = json.dumps({"inputs": [tensor]} if path == INFER else {"inputs": {"x": [row]}}).encode()
    content = content if body is None else body(content)
    lines = (f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(content)}", *headers, "", "")
    return "\r\n".join(lines).encode() + content


async def answered(reader):
    """The status of one response, and its first number where it has one."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    said = json.loads(await reader.readexactly(int(fields[b"content-length"])))
    assert b"date" in fields
    assert fields[b"content-type"] == b"application/json"
    status = int(head.split()[1])
    if status != 200:
        return status
    (output,) = said["outputs"]
    return output["data"][0] if "data" in output else output["outputs"]["y"][0][0]


async def asked(reader, writer, *sent):
    """The answers to what is sent, one after the other."""
    found = []
    for data in sent:
        writer.write(data)
        found.append(await answered(reader))
    return found


@pytest.mark.parametrize("path", [INFER, PREDICT])
def test_short_requests_are_answered_without_a_task_each_by_its_own_body(tmp_path, path):
    """First with the same head, then with another length, then with another head."""
    sent = [request(number, path) for number in (1, 2, 3, 44, 5)]
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, *sent, request(6, path, "X-A: b")))
    assert found == [3, 5, 7, 89, 11, 13]
    assert ways == ["once"] * 6


def test_requests_in_one_packet_are_answered_in_their_order(tmp_path):
    """Whole requests at once; the part of the next one waits for its rest."""
    last = request(4)

    async def talk(reader, writer):
        writer.write(request(1) + request(2) + request(3) + last[:-9])
        found = [await answered(reader) for _ in range(3)]
        writer.write(last[-9:])
        found.append(await answered(reader))
        return found + await asked(reader, writer, request(5), request(6))

    assert talked(tmp_path, talk) == ([3, 5, 7, 9, 11, 13], [*["once"] * 3, "task", *["once"] * 2])


def test_a_request_in_pieces_is_one_request(tmp_path):
    """Cut in the head, between head and body, in the body; where the head comes first, it begins as a task."""
    whole = request(7)
    cuts = (1, 20, whole.index(b"\r\n\r\n") + 2, whole.index(b"{"), len(whole) - 1)

    async def talk(reader, writer):
        found = await asked(reader, writer, request(1), request(2))
        for cut in cuts:
            writer.write(whole[:cut])
            await writer.drain()
            await asyncio.sleep(0.02)
            found += await asked(reader, writer, whole[cut:], request(2))
        return found

    found, ways = talked(tmp_path, talk)
    assert found == [3, 5, *([15, 5] * len(cuts))]
    in_head = sum(cut < whole.index(b"{") for cut in cuts)
    assert ways == ["once", "once", *["once"] * 2 * in_head, *["task", "once"] * (len(cuts) - in_head)]


def test_a_slow_body_begins_as_a_task(tmp_path):
    """The task waits for it; a client that leaves meanwhile leaves nothing behind."""
    whole = request(7)

    async def talk(reader, writer):
        found = await asked(reader, writer, request(1))
        writer.write(whole[:-3])
        await asyncio.sleep(0.2)
        found += await asked(reader, writer, whole[-3:], request(2))
        writer.write(whole[:-3])
        return found

    assert talked(tmp_path, talk) == ([3, 15, 5], ["once", "task", "once", "task"])


def test_two_requests_in_one_packet_are_both_answered(tmp_path):
    """Also where the first is the same as the last request."""

    async def talk(reader, writer):
        found = await asked(reader, writer, request(1), request(2))
        writer.write(request(3) + request(4))
        return [*found, await answered(reader), await answered(reader)]

    assert talked(tmp_path, talk)[0] == [3, 5, 7, 9]


def _chunked(content):
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


def test_bodies_in_chunks_or_packed_are_unpacked(tmp_path):
    """Packed ones in a thread."""
    bare = [request(number, INFER, "Transfer-Encoding: chunked", body=_chunked) for number in (1, 2, 3)]
    chunked = [b"".join(line for line in it.splitlines(keepends=True) if b"Content-Length" not in line) for it in bare]
    packed = [
        request(number, INFER, "Content-Encoding: gzip", body=partial(gzip.compress, mtime=0)) for number in (4, 5)
    ]
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, *chunked, *packed))
    assert found == [3, 5, 7, 9, 11]
    assert ways == ["once"] * 3 + ["task"] * 2


def test_expect_100_continue_is_answered(tmp_path):
    """And a connection is closed when its client wants that."""
    patient = request(1, INFER, "Expect: 100-continue")

    async def talk(reader, writer):
        writer.write(patient[: patient.index(b"{")])
        go_on = await reader.readuntil(b"\r\n\r\n")
        found = await asked(reader, writer, patient[patient.index(b"{") :], request(2, INFER, "Connection: close"))
        return go_on, found, await reader.read()

    assert talked(tmp_path, talk) == ((b"HTTP/1.1 100 Continue\r\n\r\n", [3, 5], b""), ["task", "once"])


def test_an_offer_of_another_protocol_is_declined(tmp_path):
    """As Java's client and curl --http2 offer it: whole, in a row, in chunks, in pieces, and without a body."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    whole, pieces = (request(number, INFER, *offer) for number in (1, 2))
    bare = request(5, INFER, *offer, "Transfer-Encoding: chunked", body=_chunked)
    chunked = b"".join(line for line in bare.splitlines(keepends=True) if b"Content-Length" not in line)
    none = b"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"

    async def talk(reader, writer):
        found = await asked(reader, writer, whole, whole + whole)
        found += [await answered(reader), *await asked(reader, writer, none, chunked)]
        for data in (pieces[:40], pieces[40:-9], pieces[-9:]):
            writer.write(data)
            await asyncio.sleep(0.05)
        return [*found, await answered(reader)]

    assert talked(tmp_path, talk)[0] == [3, 3, 3, 404, 11, 5]


def test_access_is_checked_for_each_request_of_a_connection(tmp_path):
    """Also behind a request that was let in."""
    token = f"Authorization: Bearer {TOKEN}"
    sent = [
        request(1, INFER, token),
        request(2, INFER, token.replace("a-token", "b-token")),
        request(3, INFER, token),
        request(4, INFER, token, "Origin: http://evil.example"),
        request(5, INFER),
        request(6, INFER, token),
    ]
    rules = Rules(local_only=False, token=TOKEN)
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, *sent), rules)
    assert found == [3, 401, 7, 403, 401, 13]
    assert ways == ["once"] * 6


def test_errors_are_answered_without_a_task(tmp_path):
    """Bad JSON, a wrong tensor, a model that isn't there, a route that isn't: each has its status; others go on."""
    sent = [
        request(1, INFER, body=lambda _: b"{"),
        request(1, INFER, body=lambda content: content.replace(b'"x"', b'"z"')),
        request(1, INFER, "Content-Type: text/html"),
        request(1, INFER.replace("tiny", "other")),
        request(1, "/v2/nothing"),
        request(1, PREDICT, body=lambda _: b"{}"),
        request(9),
    ]
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, *sent))
    assert found == [400, 400, 415, 404, 404, 400, 19]
    assert ways == ["once"] * 7


def test_a_long_body_runs_in_the_thread(tmp_path):
    """Its request goes on as a task."""
    long = request(3, INFER, body=lambda content: content + b" " * INLINE_MAX_BYTES)
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, request(1), long, request(2)))
    assert found == [3, 7, 5]
    assert ways == ["once", "task", "once"]


def test_an_idle_connection_is_closed_after_its_time(tmp_path, monkeypatch):
    """The time begins again with each request."""
    monkeypatch.setattr("edgeml_agent.http_api.uvicorn_server.KEEP_ALIVE_S", 20)

    async def talk(reader, writer):
        found = []
        for number in range(6):
            found += await asked(reader, writer, request(number))
            await pass_time(8)
        found += await asked(reader, writer, request(6))
        await pass_time(21)
        return found, await reader.read()

    assert talked(tmp_path, talk) == (([1, 3, 5, 7, 9, 11, 13], b""), ["once"] * 7)


async def pass_time(seconds):
    """Put the event loop's clock forward, and let it handle what is due then."""
    loop = asyncio.get_running_loop()
    clock = loop.time
    loop.time = lambda: clock() + seconds
    await asyncio.sleep(0.01)


def test_requests_of_a_client_that_reads_no_answers_fill_no_memory(tmp_path):
    """Once its window is full the server reads no further; when the client reads, all are answered."""
    many, sent_max = request(1) * 50, 4000

    async def blocked(writer):
        for number in range(sent_max):
            writer.write(many)
            try:
                await asyncio.wait_for(writer.drain(), 1)
            except TimeoutError:
                return number + 1
        return sent_max

    async def talk(reader, writer):
        number = await blocked(writer)
        return number, {await answered(reader) for _ in range(50 * number)}

    (number, found), ways = talked(tmp_path, talk)
    assert number < sent_max
    assert found == {3}
    assert len(ways) == 50 * number


def test_an_idle_connection_outlives_the_time_of_a_head(tmp_path, monkeypatch):
    """The time of a head begins with the first byte of a request, not with the end of the last one."""
    monkeypatch.setattr("edgeml_agent.http_api.connections.HEAD_MAX_S", 0.3)

    async def talk(reader, writer):
        found = await asked(reader, writer, request(1))
        await asyncio.sleep(0.8)
        found += await asked(reader, writer, request(2))
        writer.write(request(3)[:20])
        return found, await reader.read()

    assert talked(tmp_path, talk)[0] == ([3, 5], b"")


def test_http_1_0_keep_alive_post_is_answered(tmp_path):
    """And its connection closed, whatever the client asks for: `ab -k` waited for ever."""
    old = request(1, INFER, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0", 1)

    async def talk(reader, writer):
        writer.write(old)
        return await reader.read()

    said, ways = talked(tmp_path, talk)
    head, _, content = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in head.lower()
    assert json.loads(content)["outputs"][0]["data"][0] == 3
    assert ways == ["once"]


def test_head_and_body_are_written_together(tmp_path, monkeypatch):
    """A response is one packet, also without uvloop."""
    written = []
    write = asyncio.selector_events._SelectorSocketTransport.write
    monkeypatch.setattr(
        asyncio.selector_events._SelectorSocketTransport,
        "write",
        lambda self, data: written.append(bytes(data)) or write(self, data),
    )
    found, _ = talked(tmp_path, lambda reader, writer: asked(reader, writer, request(1), request(2)))
    assert found == [3, 5]
    assert len([it for it in written if it.startswith(b"HTTP/1.1 200")]) == 2
    assert len(written) == 4


def test_head_request_has_no_body(tmp_path):
    """HEAD is answered where GET is, with the length that GET's body has."""

    async def talk(reader, writer):
        writer.write(b"HEAD /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        return head, await asked(reader, writer, request(1))

    (head, found), _ = talked(tmp_path, talk)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length: " in head
    assert found == [3]


def test_request_passes_at_most_six_files_before_the_runtime(tmp_path, monkeypatch):
    """From the socket to the model, of the agent's own files."""
    passed = []
    run = Model.run

    def noting(self, *given):
        passed[:] = [it.filename for it in traceback.extract_stack() if "edgeml_agent" in it.filename]
        return run(self, *given)

    monkeypatch.setattr(Model, "run", noting)
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, request(1)))
    assert (found, ways) == ([3], ["once"])
    files = list(dict.fromkeys(Path(it).name for it in passed))
    assert files == ["eager_connection.py", "app.py", "routes.py", "models.py", "worker.py", "calls.py"]


def test_a_client_that_leaves_at_once_is_cancelled(tmp_path, monkeypatch):
    """Its connection is lost in the turn of the event loop in which its request was read."""
    monkeypatch.setattr(Worker, "_is_short", lambda *_: False)

    async def main():
        models, listener = Models(), listen("127.0.0.1", 0)
        running = asyncio.create_task(serve(build(models, ServerInfo(device="d", version="1"), Rules()), listener))
        await models.activate("tiny", *unpacked(tmp_path))
        go_on = threading.Event()
        blocking = asyncio.create_task(models.run("tiny", lambda _: go_on.wait(20)))
        for _ in range(5):
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(request(1))
        async with asyncio.timeout(TIMEOUT_S):
            while dict(_codes(models)).get("cancelled") != 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        depth = models.find("tiny").queue_depth
        go_on.set()
        await blocking
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await models.close()
        return depth

    assert asyncio.run(main()) == 1


def _codes(models):
    return ((labels["code"], count) for _, labels, count in models.counts.totals())


#: A board without a wheel of httptools.
_BARE = """
import pathlib, sys
sys.modules["httptools"] = None
from tests.integration.test_eager_start import asked, request, talked
print(talked(pathlib.Path(sys.argv[1]), lambda reader, writer: asked(reader, writer, *map(request, range(3)))))
"""


def test_without_httptools_requests_are_answered_as_tasks(tmp_path):
    """By h11."""
    command = [sys.executable, "-c", _BARE, str(tmp_path)]
    path = os.pathsep.join(it for it in sys.path if it)
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert ran.stdout == "([1.0, 3.0, 5.0], ['task', 'task', 'task'])\n"


def test_a_stream_to_a_client_of_http_1_0_has_no_chunks():
    """It would take their lengths for text (RFC 9112, 6.1); its answer ends with the connection."""

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for part in (b"data: 1", b"data: 2"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def main():
        listener = listen("127.0.0.1", 0)
        running = asyncio.create_task(serve(app, listener))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(TIMEOUT_S):
            writer.write(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            said = await reader.read()
        writer.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return said

    head, _, content = asyncio.run(main()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert content == b"data: 1data: 2"
