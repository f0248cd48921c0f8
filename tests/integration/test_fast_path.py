"""Requests answered at once, on real connections: which are, that they are answered right, that no check is lost."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
from functools import partial

import pytest
from tests.integration.test_serving import INFER, PREDICT, unpacked

from edgeml_agent.http_api import fast_path
from edgeml_agent.http_api.app import build
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.server import listen, serve
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import AT_ONCE_MAX_BYTES, Worker

TIMEOUT_S = 20
TOKEN = "a-token-of-24-characters"


class _Noted:
    """The application, and by which way it was asked."""

    def __init__(self, app):
        self._app = app
        self.ways = []

    async def __call__(self, scope, receive, send):
        self.ways.append("task")
        await self._app(scope, receive, send)

    def at_once(self, scope, body):
        response = self._app.at_once(scope, body)
        self.ways += ["once"] if response else []
        return response


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """However busy this machine is, the tiny model counts as quick."""
    monkeypatch.setattr(Worker, "is_quick", True)
    monkeypatch.setattr(Worker, "_is_short", lambda _, size_bytes=0, longest_s=0.0: size_bytes <= AT_ONCE_MAX_BYTES)


def talked(folder, talk, rules=None):
    """What `talk`, which gets a reader and a writer of one connection, returns; and the ways of its requests."""

    async def main():
        models = Models()
        listener = listen("127.0.0.1", 0)
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
def test_short_requests_are_answered_at_once_each_by_its_own_body(tmp_path, path):
    """The head is the same each time, then the length another, then the head."""
    sent = [request(number, path) for number in (1, 2, 3, 44, 5)]
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, *sent, request(6, path, "X-A: b")))
    assert found == [3, 5, 7, 89, 11, 13]
    assert ways == ["once"] * 6


def test_requests_in_one_packet_are_answered_in_their_order(tmp_path):
    """Whole ones at once; what is there of the next waits for its rest."""
    last = request(4)

    async def talk(reader, writer):
        writer.write(request(1) + request(2) + request(3) + last[:-9])
        found = [await answered(reader) for _ in range(3)]
        writer.write(last[-9:])
        found.append(await answered(reader))
        return found + await asked(reader, writer, request(5), request(6))

    assert talked(tmp_path, talk) == ([3, 5, 7, 9, 11, 13], ["once"] * 6)


def test_a_known_request_in_pieces_is_still_one_request(tmp_path):
    """However it is cut: in the head, between head and body, in the body."""
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
    assert set(ways) == {"once"}


def test_a_body_that_is_long_in_coming_goes_the_long_way(tmp_path, monkeypatch):
    """Which knows how long to wait for it; a client that leaves meanwhile leaves nothing behind."""
    monkeypatch.setattr(fast_path, "HELD_MAX_S", 0.1)
    whole = request(7)

    async def talk(reader, writer):
        found = await asked(reader, writer, request(1))
        writer.write(whole[:-3])
        await asyncio.sleep(0.4)
        found += await asked(reader, writer, whole[-3:], request(2))
        writer.write(whole[:-3])
        return found

    assert talked(tmp_path, talk) == ([3, 15, 5], ["once", "task", "once"])


def test_a_known_request_and_more_in_one_packet_are_both_answered(tmp_path):
    """What is as the last request only at its beginning is read anew."""

    async def talk(reader, writer):
        found = await asked(reader, writer, request(1), request(2))
        writer.write(request(3) + request(4))
        return [*found, await answered(reader), await answered(reader)]

    assert talked(tmp_path, talk)[0] == [3, 5, 7, 9]


def _chunked(content):
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


def test_bodies_that_came_in_chunks_or_packed_are_never_taken_as_they_are(tmp_path):
    """The same head comes again, with chunks of the same length; packed ones go the long way."""
    bare = [request(number, INFER, "Transfer-Encoding: chunked", body=_chunked) for number in (1, 2, 3)]
    chunked = [b"".join(line for line in it.splitlines(keepends=True) if b"Content-Length" not in line) for it in bare]
    packed = [
        request(number, INFER, "Content-Encoding: gzip", body=partial(gzip.compress, mtime=0)) for number in (4, 5)
    ]
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, *chunked, *packed))
    assert found == [3, 5, 7, 9, 11]
    assert ways == ["once"] * 3 + ["task"] * 2


def test_a_client_that_wants_to_be_told_to_go_on_is_told(tmp_path):
    """Nor is a connection kept that its client wants closed."""
    patient = request(1, INFER, "Expect: 100-continue")

    async def talk(reader, writer):
        writer.write(patient[: patient.index(b"{")])
        go_on = await reader.readuntil(b"\r\n\r\n")
        found = await asked(reader, writer, patient[patient.index(b"{") :], request(2, INFER, "Connection: close"))
        return go_on, found, await reader.read()

    assert talked(tmp_path, talk) == ((b"HTTP/1.1 100 Continue\r\n\r\n", [3, 5], b""), ["task"] * 2)


def test_nobody_gets_past_the_rules_at_once(tmp_path):
    """Each head is judged, also behind one that was let in."""
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
    assert ways == ["once", "task", "once", "task", "task", "once"]


def test_what_is_wrong_is_said_at_once(tmp_path):
    """Bad JSON, a wrong tensor, a model that isn't there, a route that isn't: each has its status; others go on."""
    sent = [
        request(1, INFER, body=lambda _: b"{"),
        request(1, INFER, body=lambda content: content.replace(b'"x"', b'"z"')),
        request(1, INFER, "Content-Type: text/html"),
        request(1, INFER.replace("tiny", "other")),
        request(1, "/v2/nothing"),
        request(1, PREDICT, body=lambda _: b"[]"),
        request(9),
    ]
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, *sent))
    assert found == [400, 400, 415, 404, 404, 400, 19]
    assert ways == ["once"] * 3 + ["task"] * 2 + ["once"] * 2


def test_a_long_body_goes_the_long_way(tmp_path):
    """Also when it comes in one packet."""
    long = request(3, INFER, body=lambda content: content + b" " * AT_ONCE_MAX_BYTES)
    found, ways = talked(tmp_path, lambda reader, writer: asked(reader, writer, request(1), long, request(2)))
    assert found == [3, 7, 5]
    assert ways == ["once", "task", "once"]


def test_a_connection_on_which_the_same_is_asked_is_kept_until_nothing_is(tmp_path, monkeypatch):
    """Its time begins anew with each request."""
    monkeypatch.setattr(fast_path, "KEEP_ALIVE_S", 0.6)
    monkeypatch.setattr("edgeml_agent.http_api.connections.KEEP_ALIVE_S", 0.6)

    async def talk(reader, writer):
        found = []
        for number in range(6):
            found += await asked(reader, writer, request(number))
            await asyncio.sleep(0.25)
        begun_s = asyncio.get_running_loop().time()
        assert await reader.read() == b""
        return found, asyncio.get_running_loop().time() - begun_s

    (found, closed_s), ways = talked(tmp_path, talk)
    assert found == [1, 3, 5, 7, 9, 11]
    assert ways == ["once"] * 6
    assert 0.2 < closed_s < 5


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


#: A board without a wheel of httptools.
_BARE = """
import pathlib, sys
sys.modules["httptools"] = None
from tests.integration.test_prompt import asked, request, talked
print(talked(pathlib.Path(sys.argv[1]), lambda reader, writer: asked(reader, writer, *map(request, range(3)))))
"""


def test_without_httptools_requests_go_the_long_way(tmp_path):
    """And are answered all the same."""
    command = [sys.executable, "-c", _BARE, str(tmp_path)]
    path = os.pathsep.join(it for it in sys.path if it)
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert ran.stdout == "([1.0, 3.0, 5.0], ['task', 'task', 'task'])\n"
