"""Restarts, supervision and bounds: a listening socket that is inherited, systemd's protocol, clients that dawdle."""

import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from functools import partial

import httpx
import pytest
import uvloop

from edgeml_agent.http_api import body, request
from edgeml_agent.http_api.acceptor import Acceptor
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.server import inherited, listen
from edgeml_agent.system.systemd import Supervisor
from edgeml_core.errors import UsageError
from integration.test_serving import server, unpacked
from support.delivery_site import MODEL, site, until
from support.plain_http import NO_TLS
from support.scale import scaled
from support.waiting import TIMEOUT_S

RESTARTS = scaled(20, 5)
CLIENTS = 4
#: Starts a program as systemd does: the socket as file 3, the program's own process id in LISTEN_PID.
AS_SYSTEMD = """
import os, sys
os.dup2(int(os.environ["LISTENER"]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Unit:
    """An agent that is started again and again with one listening socket, as a systemd unit with a socket is."""

    def __init__(self, config, listener, notify, log):
        self._command = [sys.executable, "-c", AS_SYSTEMD, "-m", "edgeml_agent", "run", "--config", str(config)]
        self._listener, self._notify, self._log = listener, notify, log
        self._environment = os.environ | {
            "LISTENER": str(listener.fileno()),
            "LISTEN_FDS": "1",
            "NOTIFY_SOCKET": notify.address,
            "WATCHDOG_USEC": "400000",
        }

    def start(self):
        """Start, and wait until the agent says that it is ready."""
        with self._log.open("ab") as log:
            files = [self._listener.fileno()]
            self.process = subprocess.Popen(self._command, env=self._environment, pass_fds=files, stderr=log)
        self.hear("READY=1")

    def stop(self):
        """SIGTERM, as systemd does; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.hear("STOPPING=1")
        return self.process.wait(TIMEOUT_S)

    def hear(self, what):
        """Wait for the next notification that says this."""
        while self._notify.get(timeout=TIMEOUT_S) != what:
            pass


@pytest.fixture
def listener():
    """A listening socket that outlives the agents."""
    with listen("127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def notify(tmp_path):
    """What is told, in order; its address is where to."""
    told = queue.Queue()
    told.address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as road:
        road.bind(told.address)

        def hear():
            while (said := road.recv(100)) != b"end":
                told.put(said.decode())

        hearing = threading.Thread(target=hear)
        hearing.start()
        yield told
        road.sendto(b"end", told.address)
        hearing.join(TIMEOUT_S)


def test_nobody_is_refused_while_the_agent_restarts(tmp_path, listener, notify):
    """Restarts under clients that make a new connection each time: every request is answered, and rightly."""
    with site(tmp_path) as place:
        place.publish("1.0", scale=2.0)
        place.deploy("1.0")
        assert place.run_agent_command("install", str(place.repo)).returncode == 0
        unit = Unit(place.config, listener, notify, tmp_path / "unit.log")
        unit.start()
        enough, found = threading.Event(), []
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models/{MODEL}/predict"
        clients = [threading.Thread(target=_ask, args=(url, enough, found)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        codes = []
        for _ in range(RESTARTS):
            _hear_more(found)
            codes.append(unit.stop())
            unit.start()
        enough.set()
        for client in clients:
            client.join(TIMEOUT_S)
        unit.hear("WATCHDOG=1")
        codes.append(unit.stop())
    assert codes == [0] * (RESTARTS + 1)
    assert set(found) == {3.0}


class Noted(asyncio.Protocol):
    """A connection that is noted when it is accepted."""

    def __init__(self, noted):
        self._noted = noted

    def begin(self, *_):
        """Note it."""
        self._noted.append(self)

    def give_up(self):
        """It stays noted."""


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_that_comes_as_accepting_ends_is_accepted_or_waits(listener, loop):
    """For the next agent, then; in no turn of the event loop it is lost."""

    async def main(turns):
        noted = []
        accepting = asyncio.create_task(Acceptor(listener, partial(Noted, noted), None).run())
        await asyncio.sleep(0.05)
        with socket.create_connection(listener.getsockname()):
            for _ in range(turns):
                await asyncio.sleep(0)
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            if not noted:
                listener.accept()[0].close()  # a BlockingIOError where none waits

    for turns in range(4):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main(turns))


@pytest.mark.nightly
def test_models_are_served_from_a_card_that_has_lost_the_authority(tmp_path):
    """The doctor shows why the device isn't connected; an agent without a model is refused, as at its first start."""
    with site(tmp_path) as place:
        text = place.config.read_text().replace("mqtt://", "mqtts://")
        place.config.write_text(text.replace("[broker]", '[broker]\nca = "lost.crt"'))
        assert place.start_agent().process.wait(TIMEOUT_S) == 2
        log = tmp_path / "agent.log"
        assert "error[config-invalid]: the broker's ca, cert or key can't be used" in log.read_text()
        place.publish("1.0", scale=2.0)
        place.deploy("1.0")
        assert place.run_agent_command("install", str(place.repo)).returncode == 0
        agent = place.start_agent()
        until(lambda: place.answers(21.0), "the model answers")
        found = json.loads(place.run_agent_command("doctor").stdout)["checks"]
        assert [it["status"] for it in found if it["name"] == "broker"] == ["failed"]
        assert "ca, cert or key can't be used" in str(found)
        assert 'connection: paused code="config-invalid"' in log.read_text()
        assert agent.stop() == 0


def _hear_more(found):
    """Wait for more answers than the clients have requests under way."""
    heard = len(found)
    until(lambda: len(found) > heard + CLIENTS, "answers")


def _ask(url, enough, found):
    """Ask until `enough`; what was found, failures as they are."""
    while not enough.is_set():
        try:
            asked = {"inputs": {"x": [[1, 0, 0, 0]]}}
            response = httpx.post(url, json=asked, timeout=TIMEOUT_S, trust_env=False, verify=NO_TLS)
            found.append(response.json()["outputs"][0]["outputs"]["y"][0][0])
        except Exception as error:  # noqa: BLE001 - any failure fails the test
            found.append(repr(error))


def test_the_inherited_socket_is_the_one_meant_for_this_process(listener):
    """Variables that were left over from another process are passed over."""
    assert inherited({}) is None
    assert inherited({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    with pytest.raises(UsageError) as caught:
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})
    assert caught.value.code == "config-invalid"


def test_without_a_supervisor_nothing_is_told():
    """Nor is it an error when nobody listens any more."""
    Supervisor({}).notify("READY=1")
    Supervisor({"NOTIFY_SOCKET": "/nowhere"}).notify("READY=1")
    asyncio.run(asyncio.wait_for(Supervisor({}).run(lambda: True), TIMEOUT_S))


def test_a_connection_that_does_not_come_to_the_point_is_closed(tmp_path, monkeypatch):
    """Nothing said, half a head, half of a later head: closed in time; who asks is answered meanwhile."""
    monkeypatch.setattr("edgeml_agent.http_api.connections.HEAD_MAX_S", 0.3)

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            roads = [await _connected(client) for _ in range(3)]
            roads[1][1].write(b"GET /health HTTP/1.1\r\nHost: local")
            roads[2][1].write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(TIMEOUT_S):
                assert (await roads[2][0].readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
                roads[2][1].write(b"GET /heal")
                said = await asyncio.gather(*(reader.read() for reader, _ in roads))
            return said, await client.get("/health")

    said, healthy = asyncio.run(main())
    assert said == [b"", b"", b""]
    assert healthy.status_code == 200


def test_a_head_without_an_end_fills_no_memory(tmp_path):
    """The connection is closed, before who sends it had to show a token."""

    async def main():
        async with server(Rules(local_only=False, token="a-token-of-24-characters")) as (_, client):
            _, writer = await _connected(client)
            writer.write(b"GET /health HTTP/1.1\r\n")
            sent = [0]
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(_go_on(writer, b"X-Line: %b\r\n" % (b"a" * 1000), sent), TIMEOUT_S)
            return sent[0], (await client.get("/health")).status_code

    sent, status = asyncio.run(main())
    assert sent < 10_000_000
    assert status == 200


def test_a_body_that_does_not_come_is_given_up(tmp_path, monkeypatch):
    """The client learns it; its connection isn't kept."""
    monkeypatch.setattr(body, "PIECE_MAX_S", 0.3)

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            reader, writer = await _connected(client)
            writer.write(b"POST /v1/models/tiny/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
            async with asyncio.timeout(TIMEOUT_S):
                return await reader.readuntil(b"}")

    said = asyncio.run(main())
    assert said.startswith(b"HTTP/1.1 400")
    assert b"broke off" in said


def test_bodies_of_all_requests_together_are_bounded(tmp_path, monkeypatch):
    """The one that would be too much is told when to come back; then its memory is free for others."""
    monkeypatch.setattr(request, "BODIES_MAX_BYTES", 1_500_000)
    half = b"[" + b" " * 1_000_000

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            head = b"POST /v1/models/tiny/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000002\r\n\r\n"
            reader, writer = await _connected(client)
            writer.write(head + half)
            await writer.drain()
            await asyncio.sleep(0.3)
            refused = await client.post("/v1/models/tiny/predict", content=half)
            writer.write(b"]")
            async with asyncio.timeout(TIMEOUT_S):
                first = await reader.readuntil(b"}")
            return refused, first, await client.post("/v1/models/tiny/predict", content=half)

    refused, first, after = asyncio.run(main())
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert first.startswith(b"HTTP/1.1 400")
    assert after.status_code == 400


async def _go_on(writer, line, sent):
    while True:
        writer.write(line)
        sent[0] += len(line)
        await writer.drain()


async def _connected(client):
    return await asyncio.open_connection(client.base_url.host, client.base_url.port)
