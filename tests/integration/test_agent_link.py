"""The agent's link on real brokers: Mosquitto by MQTT 5, the embedded amqtt by 3.1.1."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiomqtt import Client, ProtocolVersion

from edgeml_agent.link import chunk_feed
from edgeml_agent.link.chunk_topics import STARVED_S
from edgeml_agent.link.link import MqttLink
from edgeml_agent.link.signed_files import RETAINED_WAIT_S
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import broker as broker_urls
from edgeml_core import chunks, messages
from edgeml_core.calls import Reply
from edgeml_core.errors import TransportError
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_io import backoff
from support import brokers
from support.waiting import until_async

TIMEOUT_S = 120.0
#: Time for the link's own messages at the start of a connection: the echoes of its rights check.
SETTLED_S = 0.3
TOPICS = Topics("farm")
CHUNK = b"content" * 1000
DIGEST = chunks.sha256(CHUNK)


@pytest.fixture(params=["mosquitto", "amqtt"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a broker of each kind."""
    if request.param == "amqtt":
        with brokers.embedded() as address:
            yield address
    else:
        with brokers.mosquitto(tmp_path / "broker") as broker:
            yield broker.url


def a_link(url: str, *, max_bytes_per_s: int | None = None) -> MqttLink:
    """The link of a device."""
    settings = BrokerSettings(url=broker_urls.parse(url), ca=None, cert=None, key=None)
    sessions = itertools.count(1)
    return MqttLink(
        settings,
        DeviceSettings(id="board-1", fleet="farm", labels={}),
        lambda: next(sessions),
        max_bytes_per_s=max_bytes_per_s,
    )


class Host:
    """A raw client in the host's place, which keeps what devices say."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.received: list[tuple[str, bytes]] = []

    async def listen(self) -> None:
        """Keep everything."""
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            if message.payload:
                self.received.append((str(message.topic), message.payload))

    def states(self) -> list[DeviceState]:
        """The device's states."""
        return [messages.decode(data, DeviceState) for topic, data in self.received if topic == TOPICS.state("board-1")]

    def reports(self) -> list[Report]:
        """The device's reports."""
        return [messages.decode(data, Report) for topic, data in self.received if topic == TOPICS.report("board-1")]


@contextlib.asynccontextmanager
async def running(link: MqttLink):
    """The link, connecting and staying connected; goodbye at the end."""
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def host(url: str):
    """A host on the broker."""
    address = broker_urls.parse(url)
    async with Client(address.host, address.port, protocol=ProtocolVersion.V311) as client:
        at = Host(client)
        await client.subscribe([(TOPICS.want("+"), 1), (TOPICS.state("+"), 1), (TOPICS.report("+"), 1)])
        listening = asyncio.create_task(at.listen())
        try:
            yield at
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


def a_report(version: str) -> Report:
    """A report."""
    return Report(deployment="d", name="mood", version=version, state="fetching", session=0)


def test_read_returns_signed_files_as_they_are_published(url: str) -> None:
    """Metadata by itself, targets when they are asked for; roots that aren't there at once."""

    async def run() -> None:
        async with host(url) as at, running(a_link(url)) as link:
            root = b'{"signed": {"version": 1}}'
            files = {"metadata/root.json": root, "targets/x.json": b"target", "metadata/timestamp.json": b"time"}
            for file, content in files.items():
                await at.client.publish(TOPICS.trust("fleet", file), content, qos=1, retain=True)
            await asyncio.wait_for(link.announced(), TIMEOUT_S)
            assert await link.files.read("fleet", "metadata/timestamp.json") == b"time"
            assert await link.files.read("fleet", "targets/x.json") == b"target"
            assert await asyncio.wait_for(link.files.read("fleet", "metadata/2.root.json"), RETAINED_WAIT_S / 2) is None
            assert await link.files.read("fleet", "metadata/1.root.json") == root
            await at.client.publish(TOPICS.trust("fleet", "metadata/timestamp.json"), b"later", qos=1, retain=True)
            await asyncio.wait_for(link.announced(), TIMEOUT_S)
            while await link.files.read("fleet", "metadata/timestamp.json") == b"time":  # it was of an earlier change
                await asyncio.wait_for(link.announced(), TIMEOUT_S)
            assert await link.files.read("fleet", "metadata/timestamp.json") == b"later"

    asyncio.run(run())


def test_want_receives_wanted_chunks_only(url: str) -> None:
    """The topic is subscribed before the want goes out, and left when it is dropped."""

    async def run() -> None:
        async with host(url) as at, running(a_link(url)) as link:
            await link.chunks.want([DIGEST])
            await until_async(lambda: (TOPICS.want("board-1"), messages.encode(Want(keys=(DIGEST,)))) in at.received)
            await at.client.publish(TOPICS.chunk("0" * 64), b"not wanted")
            await at.client.publish(TOPICS.chunk(DIGEST), chunks.to_wire(CHUNK))
            arrival = await link.chunks.receive(TIMEOUT_S)
            assert arrival is not None
            assert arrival.key == DIGEST
            assert chunks.from_wire(arrival.payload, DIGEST) == CHUNK
            await link.chunks.drop([DIGEST])
            link.report(a_report("1.0"))
            await until_async(at.reports)
            await at.client.publish(TOPICS.chunk(DIGEST), chunks.to_wire(CHUNK))
            assert await link.chunks.receive(0.3) is None

    asyncio.run(run())


def test_states_and_reports_have_the_session(url: str) -> None:
    """A birth at the connection, each new state, and a goodbye."""

    async def run() -> None:
        async with host(url) as at:
            async with running(a_link(url)) as link:
                await until_async(lambda: len(at.states()) == 1)
                link.publish_state(DeviceState(online=True, session=0, arch="aarch64"))
                link.report(a_report("1.0"))
                await until_async(lambda: len(at.states()) == 2 and at.reports())
            await until_async(lambda: len(at.states()) == 3)
            assert [(state.online, state.session, state.arch) for state in at.states()] == [
                (True, 1, ""),
                (True, 1, "aarch64"),
                (False, 1, "aarch64"),
            ]
            assert at.reports()[0].session == 1

    asyncio.run(run())


def test_a_lost_connection_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next session, what was reported meanwhile, and a new look at the signed files."""
    monkeypatch.setattr(backoff, "jittered", lambda _: 0.05)

    async def run(broker: brokers.Mosquitto) -> None:
        async with (
            host(broker.url) as at,
            cuttable(broker.port) as (port, cut, repaired),
            running(a_link(f"mqtt://127.0.0.1:{port}")) as link,
        ):
            await asyncio.wait_for(link.announced(), TIMEOUT_S)
            await until_async(at.states)
            cut()
            await until_async(lambda: not at.states()[-1].online)
            link.report(a_report("1.0"))
            link.report(a_report("2.0"))
            await asyncio.sleep(0.3)
            assert at.reports() == []
            repaired.set()
            await until_async(lambda: [report.version for report in at.reports()] == ["1.0", "2.0"])
            assert {report.session for report in at.reports()} == {link.session}
            assert link.session > 1
            await asyncio.wait_for(link.announced(), TIMEOUT_S)
        assert next(state.session for state in at.states() if not state.online) == 1, "the will is that of the birth"

    with brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker))


@contextlib.asynccontextmanager
async def cuttable(target: int):
    """A network path to a port that can be cut and repaired: (port, cut, repaired)."""
    async with network_path(target) as path:
        yield path.port, path.cut, path.repaired


class NetworkPath:
    """A TCP proxy that can be cut, and that cuts itself at a packet which holds `cut_at`, before it is passed on."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.cut_at = b""
        self.cuts = 0
        self.repaired = asyncio.Event()
        self.repaired.set()
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        """Close all connections, and accept none until `repaired` is set."""
        self.repaired.clear()
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes both ways."""
        if not self.repaired.is_set():
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, inner_writer]
        await asyncio.gather(self._forward(reader, inner_writer), self._forward(inner_reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.cut_at and self.cut_at in data:
                    self.cut()
                    return
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def network_path(target: int):
    """A network path to a port."""
    path = NetworkPath(target)
    server = await asyncio.start_server(path.accept, "127.0.0.1", 0)
    async with server:
        path.port = server.sockets[0].getsockname()[1]
        yield path
        path.cut()


@pytest.mark.parametrize(
    ("send", "topic"),
    [
        (lambda link: link.report(a_report("1.0")), TOPICS.report("board-1")),
        (lambda link: link.reply(Reply(id="call-1")), TOPICS.reply("board-1")),
        (lambda link: link.forward(TOPICS.relay("board-1"), b"relayed"), TOPICS.relay("board-1")),
    ],
    ids=["report", "reply", "relayed"],
)
def test_a_connection_cut_before_the_puback_loses_no_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    send: Callable[[MqttLink], None],
    topic: str,
) -> None:
    """The device has written the PUBLISH and the network ends before the broker has it: it is published again."""
    monkeypatch.setattr(backoff, "jittered", lambda _: 0.05)

    async def run(broker: brokers.Mosquitto) -> None:
        async with (
            host(broker.url) as at,
            network_path(broker.port) as path,
            running(a_link(f"mqtt://127.0.0.1:{path.port}")) as link,
        ):
            await at.client.subscribe([(TOPICS.reply("+"), 1), (TOPICS.relay("+"), 1)])
            # Messages before the cut: the rights check publishes empty payloads on the same topics.
            link.report(a_report("0.9"))
            await until_async(lambda: at.states() and at.reports())
            await asyncio.sleep(SETTLED_S)
            path.cut_at = topic.encode()
            send(link)
            await until_async(lambda: path.cuts)
            path.cut_at = b""
            path.repaired.set()
            await until_async(lambda: sent(at))

    def sent(at: Host) -> list[bytes]:
        return [data for to, data in at.received if to == topic and b"0.9" not in data]

    with brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker))


def test_chunk_topic_of_an_earlier_run_is_unsubscribed(tmp_path: Path) -> None:
    """The session outlives a kill, and so do its subscriptions: the first message on one ends it."""

    async def run(broker: brokers.Mosquitto) -> None:
        async with running(a_link(broker.url)) as first:
            await first.chunks.want([DIGEST])
        async with host(broker.url) as at, running(a_link(broker.url)):
            await until_async(lambda: at.states() and at.states()[-1].online)
            await at.client.publish(TOPICS.chunk(DIGEST), chunks.to_wire(CHUNK), qos=1)
            await until_async(lambda: f"edgeml-farm-board-1 {TOPICS.chunk(DIGEST)}" in broker.log)

    with brokers.mosquitto(tmp_path / "broker", f"{brokers.OPEN}\nlog_type all") as broker:
        asyncio.run(run(broker))


def test_want_without_a_broker_fails_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an error of the transport."""
    monkeypatch.setattr("edgeml_agent.link.current.CONNECT_WAIT_S", 0.2)

    async def run() -> None:
        async with running(a_link(f"mqtt://127.0.0.1:{brokers.free_port()}")) as link:
            with pytest.raises(TransportError) as caught:
                await link.chunks.want([DIGEST])
            assert caught.value.code == "broker-unreachable"
            await link.chunks.drop([DIGEST])

    asyncio.run(run())


def test_want_is_repeated_when_the_host_returns(url: str) -> None:
    """It announces itself, and knows nothing of what was wanted before."""

    async def run() -> None:
        async with host(url) as at, running(a_link(url)) as link:
            await link.chunks.want([DIGEST])
            await until_async(lambda: len(wants(at)) == 1)
            await asyncio.sleep(STARVED_S)
            await at.client.publish(TOPICS.trust("fleet", "metadata/timestamp.json"), b"time", qos=1, retain=True)
            await until_async(lambda: len(wants(at)) == 2)
            assert wants(at)[0] == wants(at)[1]

    asyncio.run(run())


def test_want_is_repeated_on_a_new_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on its way is lost with the old one."""
    monkeypatch.setattr(backoff, "jittered", lambda _: 0.05)

    async def run(broker: brokers.Mosquitto) -> None:
        async with (
            host(broker.url) as at,
            cuttable(broker.port) as (port, cut, repaired),
            running(a_link(f"mqtt://127.0.0.1:{port}")) as link,
        ):
            await link.chunks.want([DIGEST])
            await until_async(lambda: len(wants(at)) == 1)
            cut()
            repaired.set()
            await until_async(lambda: len(wants(at)) == 2)
            await at.client.publish(TOPICS.chunk(DIGEST), chunks.to_wire(CHUNK))
            assert await link.chunks.receive(TIMEOUT_S) is not None

    with brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker))


def test_follow_waits_for_the_retained_position(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker may send it a moment after its confirmation. It is gone when no wave is followed."""
    monkeypatch.setattr(chunk_feed, "POSITION_WAIT_S", TIMEOUT_S)

    async def run() -> None:
        async with host(url) as at, running(a_link(url)) as link:
            await at.client.publish(TOPICS.wave("1" * 32), DIGEST[:32], qos=1, retain=True)
            await link.chunks.follow("1" * 32)
            assert link.chunks.position == DIGEST[:32]
            await link.chunks.follow("")
            assert link.chunks.position == ""

    asyncio.run(run())


def test_want_beyond_the_rate_limit_waits(tmp_path: Path) -> None:
    """Until what came before has had its time."""

    async def run(broker: brokers.Mosquitto) -> None:
        async with host(broker.url) as at, running(a_link(broker.url, max_bytes_per_s=1000)) as link:
            await link.chunks.want([DIGEST])
            await until_async(lambda: wants(at))
            begun_s = time.monotonic()
            await at.client.publish(TOPICS.chunk(DIGEST), bytes(1000))
            assert await link.chunks.receive(TIMEOUT_S) is not None
            await link.chunks.want([DIGEST])
            assert time.monotonic() - begun_s > 0.5

    with brokers.mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker))


def wants(at: Host) -> list[bytes]:
    """What has been wanted."""
    return [payload for topic, payload in at.received if topic == TOPICS.want("board-1")]
