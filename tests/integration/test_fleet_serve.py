"""`fleet serve` against real brokers: a raw client sees the metadata, wants chunks and gets exactly those."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from edgeml import repository
from edgeml.fleet import own_broker, serve, status
from edgeml.fleet.announcer import WATCH_EVERY_S
from edgeml.fleet.link import Broker
from edgeml.fleet.registry import Registry
from edgeml.repository.deployments import deploy
from edgeml_core import broker as broker_urls
from edgeml_core import chunks, desired, messages, multi_chunk, trust, wire_keys
from edgeml_core.errors import TransportError, UsageError
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_io.mqtt import PACKET_OVERHEAD_BYTES
from support import brokers, deployed_repository, samples
from support.certificates import certify
from support.tiny_models import tiny_onnx_bundle
from support.waiting import until_async

pytestmark = pytest.mark.anyio

TOPICS = Topics("farm")
TIMEOUT_S = 120.0
DIGESTS = samples.a_manifest().files[-1].chunks
LISTED = tuple(map(wire_keys.chunk_id, DIGESTS))
UNLISTED = wire_keys.chunk_id(chunks.sha256(b"in no manifest"))


class Journal:
    """Events of the service, to be waited for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, text: str, **fields: object) -> None:
        """Note an event."""
        self.names.append(name)

    async def until(self, name: str, count: int = 1) -> None:
        """Wait until an event has come `count` times."""
        await until_async(lambda: self.names.count(name) >= count)


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio."""
    return "asyncio"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one release, two devices and one deployment."""
    return deployed_repository.make(tmp_path, ("pi-1", "pi-2"))


@pytest.fixture(params=["mosquitto", "amqtt"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a running broker of either kind."""
    if request.param == "mosquitto":
        with brokers.mosquitto(tmp_path / "broker") as mosquitto:
            yield mosquitto.url
    else:
        with brokers.embedded() as embedded:
            yield embedded


@asynccontextmanager
async def serving(repo: Path, at: str | Broker):
    """The service, announced, for the time of the block."""
    journal = Journal()
    broker = at if isinstance(at, Broker) else Broker(url=broker_urls.parse(at))
    service = asyncio.create_task(serve.serve(repo, broker, journal))
    try:
        announced = asyncio.create_task(journal.until("announced"))
        await asyncio.wait({service, announced}, return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            service.result()
        await announced
        yield journal
    finally:
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)


class Reader(aiomqtt.Client):
    """A raw client of MQTT 3.1.1, which both brokers speak.

    It receives its own subscriptions only: amqtt sends a new client retained messages of all clients' subscriptions.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._asked: list[str] = []

    async def ask(self, *topics: str) -> None:
        """Subscribe."""
        for topic in topics:
            self._asked.append(topic)
            await self.subscribe(topic, qos=1)

    async def heard(self) -> AsyncIterator[tuple[str, bytes]]:
        """Topics and payloads as they come."""
        async for message in self.messages:
            if any(message.topic.matches(topic) for topic in self._asked):
                yield str(message.topic), bytes(message.payload)


def a_client(url: str) -> Reader:
    """A client of the broker."""
    address = broker_urls.parse(url)
    return Reader(address.host, address.port)


async def received(client: Reader, count: int) -> dict[str, bytes]:
    """The next `count` messages by topic."""
    found: dict[str, bytes] = {}
    async with asyncio.timeout(TIMEOUT_S):
        async for topic, payload in client.heard():
            found[topic] = payload
            if len(found) == count:
                break
    return found


async def quiet(client: Reader, for_s: float) -> dict[str, bytes]:
    """All that arrives in a while, by topic."""
    found: dict[str, bytes] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(for_s):
            async for message in client.heard():
                found.update((message,))
    return found


async def test_want_is_answered_for_listed_chunks_only(repo: Path, url: str):
    """A device that wants listed chunks gets exactly those, small ones together; an unlisted id is met by silence."""
    async with serving(repo, url), a_client(url) as client:
        await client.ask(TOPICS.chunk("+"))
        await client.publish(TOPICS.want("pi-1"), messages.encode(Want(keys=(UNLISTED, *LISTED))), qos=1)
        ((topic, payload),) = (await received(client, 1)).items()
        found = multi_chunk.split(payload)
        assert topic in map(TOPICS.chunk, LISTED)
        assert found.keys() == set(map(multi_chunk.name, LISTED))
        whole = b"".join(chunks.from_wire(found[multi_chunk.name(wire_keys.chunk_id(it))], it) for it in DIGESTS)
        assert whole == samples.FILES["model.weights"]
        assert await quiet(client, 1.0) == {}


async def test_want_of_strangers_or_malformed_is_dropped(repo: Path, url: str):
    """A device that isn't enrolled, and bytes that are no want, get no answer; the operator gets one event."""
    async with serving(repo, url) as journal, a_client(url) as client:
        await client.ask(TOPICS.chunk("+"))
        await client.publish(TOPICS.want("stranger"), messages.encode(Want(keys=LISTED)), qos=1)
        for payload in (b"\xff", b"[]", b'{"keys": 1}', b"x" * 100_000):
            await client.publish(TOPICS.want("pi-1"), payload, qos=1)
        assert await quiet(client, 1.0) == {}
        await client.publish(TOPICS.want("pi-2"), messages.encode(Want(keys=LISTED[:1])), qos=1)
        assert list(await received(client, 1)) == [TOPICS.chunk(LISTED[0])]
        assert journal.names.count("dropped") == 1


async def test_repository_is_retained_and_changes_follow(repo: Path, url: str):
    """Every file of both repositories is retained; a deployment shows up as new metadata, its targets before it."""
    async with serving(repo, url) as journal, a_client(url) as client:
        opened = repository.opened(repo)
        expected = {
            TOPICS.trust(signed.name, file): (signed.folder / file).read_bytes()
            for signed in opened.both
            for file in signed.files()
        } | {TOPICS.trust(signed.name, trust.NEWEST_ROOT_FILE): signed.newest_root() for signed in opened.both}
        await client.ask(f"{TOPICS.root}/trust/#")
        assert await received(client, len(expected)) == expected
        await quiet(client, 0.5)
        deployed = await asyncio.to_thread(deploy, repo, "sample", selector="site=b", allow_empty=True)
        await journal.until("announced", 2)
        timestamp = TOPICS.trust(trust.FLEET, "metadata/timestamp.json")
        arrived = await until_topic(client, timestamp)
        (document,) = [payload for topic, payload in arrived if "trust/fleet/targets/" in topic]
        assert desired.decode(document).deployments[-1] == deployed.deployment
        assert [topic for topic, _ in arrived if "trust/fleet/targets" in topic] == [arrived_first(arrived)]


async def until_topic(client: Reader, last: str) -> list[tuple[str, bytes]]:
    """Messages in order, up to the one on topic `last`."""
    arrived: list[tuple[str, bytes]] = []
    async with asyncio.timeout(TIMEOUT_S):
        async for message in client.heard():
            arrived.append(message)
            if arrived[-1][0] == last:
                break
    return arrived


def arrived_first(arrived: list[tuple[str, bytes]]) -> str:
    """The first topic of the fleet repository."""
    return next(topic for topic, _ in arrived if "trust/fleet/" in topic)


async def test_superseded_metadata_is_cleared(repo: Path, url: str):
    """Two changes later, the broker no longer retains the metadata of the first state."""
    old = repository.opened(repo).fleet.files()[-2]
    async with serving(repo, url) as journal:
        for count in (2, 3):
            await asyncio.to_thread(repository.refresh, repo)
            await journal.until("announced", count)
        async with a_client(url) as client:
            await client.ask(TOPICS.trust(trust.FLEET, old))
            assert await quiet(client, 0.5) == {}
            await client.ask(TOPICS.trust(trust.FLEET, "metadata/timestamp.json"))
            assert len(await received(client, 1)) == 1


async def test_states_and_reports_reach_the_registry(repo: Path, url: str):
    """What enrolled devices say is in the status; what a stranger says is not."""
    (deployment,) = repository.opened(repo).document().deployments
    rejected = Report(
        deployment=deployment.id, name="sample", version="1.0", state="rejected", session=1, code="digest-mismatch"
    )
    async with serving(repo, url), a_client(url) as client:
        for device in ("stranger", "pi-1"):
            await client.publish(TOPICS.state(device), messages.encode(DeviceState(online=True, session=1)), qos=1)
            await client.publish(TOPICS.report(device), messages.encode(rejected), qos=1)
        await until_async(lambda: bool(status.status(repo).deployments[0].failures))
    found = status.status(repo)
    assert found.online == 1
    assert found.deployments[0].states == {"rejected": 1, "silent": 1}
    assert [device.id for device in status.devices(repo) if device.seen_s] == ["pi-1"]


async def test_states_retained_before_the_host_came_hold_up_nothing(repo: Path, url: str):
    """Amqtt confirms a subscription after the client has acknowledged what it retains, or after 5 s for each."""
    async with a_client(url) as client:
        for device in ("pi-1", "pi-2"):
            state = messages.encode(DeviceState(online=True, session=1))
            await client.publish(TOPICS.state(device), state, qos=1, retain=True)
    async with serving(repo, url) as journal:
        await until_async(lambda: status.status(repo).online == 2)
    assert "disconnected" not in journal.names


async def test_foreign_changes_are_repaired(repo: Path, url: str):
    """A signed file that was deleted or written over is announced again; one that isn't ours is cleared."""
    timestamp, root = "metadata/timestamp.json", "metadata/1.root.json"
    fleet, releases = TOPICS.trust(trust.FLEET, timestamp), TOPICS.trust(trust.RELEASES, root)
    foreign = TOPICS.trust(trust.FLEET, "metadata/2.root.json")
    async with serving(repo, url) as journal, a_client(url) as client:
        for topic, payload in ((fleet, b"{}"), (releases, b""), (foreign, b"{}")):
            await client.publish(topic, payload, qos=1, retain=True)
        await journal.until("repaired")
        await asyncio.sleep(2 * WATCH_EVERY_S)
        assert journal.names.count("repaired") <= 3, "our own messages are no foreign ones"
        files = {fleet: repo / trust.FLEET / timestamp, releases: repo / trust.RELEASES / root}
        expected = {topic: path.read_bytes() for topic, path in files.items()}
        await client.ask(fleet, releases, foreign)
        found: dict[str, bytes] = {}
        async with asyncio.timeout(TIMEOUT_S):
            while {topic: payload for topic, payload in found.items() if payload} != expected:
                found |= await quiet(client, 0.5)


async def test_records_of_other_clients_hold_up_no_states(repo: Path, tmp_path: Path):
    """Mosquitto sends no further message to a client that has 20 to acknowledge."""
    with brokers.mosquitto(tmp_path / "broker") as broker:
        async with serving(repo, broker.url) as journal, a_client(broker.url) as client:
            while "repaired" not in journal.names:
                await client.publish(TOPICS.record("pi-1"), b"forged", qos=1)
                await asyncio.sleep(0.1)
            for _ in range(25):
                await client.publish(TOPICS.record("pi-1"), b"forged", qos=1)
            await client.publish(TOPICS.state("pi-1"), messages.encode(DeviceState(online=True, session=1)), qos=1)
            await until_async(lambda: status.status(repo).online == 1)


async def test_file_that_the_broker_does_not_take_is_skipped_and_told(repo: Path, tmp_path: Path):
    """All others are announced, as is every later change; Mosquitto would disconnect the host at a longer packet."""
    tiny_onnx_bundle(tmp_path / "long.edgeml", name="long", version="1.0", weights_bytes=4_000_000)
    await asyncio.to_thread(repository.publish, repo, [tmp_path / "long.edgeml"])
    opened = repository.opened(repo)
    sizes = {(it, file): (it.folder / file).stat().st_size for it in opened.both for file in it.files()}
    (long, file) = max(sizes, key=sizes.__getitem__)
    assert "long-1.0" in file
    limit = sizes.pop((long, file))
    assert max(sizes.values()) + PACKET_OVERHEAD_BYTES < limit
    config = f"{brokers.OPEN}\nmax_packet_size {limit}"
    with brokers.mosquitto(tmp_path / "broker", config) as broker:
        async with serving(repo, broker.url) as journal, a_client(broker.url) as client:
            assert journal.names.count("file-refused") == 1
            await client.ask(*(TOPICS.trust(signed.name, file) for signed, file in sizes))
            assert len(await received(client, len(sizes))) == len(sizes)
            await client.ask(TOPICS.trust(long.name, file))
            assert await quiet(client, 0.5) == {}
            await asyncio.to_thread(deploy, repo, "sample", selector="site=b", allow_empty=True)
            await journal.until("announced", 2)
            assert journal.names.count("connected") == 1
            assert journal.names.count("file-refused") == 1


async def test_reports_of_its_absence_reach_the_host(repo: Path, tmp_path: Path):
    """What devices say while nobody serves is in the status once somebody does again."""
    (deployment,) = repository.opened(repo).document().deployments
    failed = Report(deployment=deployment.id, name="sample", version="1.0", state="rolled back", session=1, code="x")
    with brokers.mosquitto(tmp_path / "broker") as broker:
        async with serving(repo, broker.url):
            pass
        async with a_client(broker.url) as client:
            await client.publish(TOPICS.report("pi-1"), messages.encode(failed), qos=1)
        async with serving(repo, broker.url):
            await until_async(lambda: bool(status.status(repo).deployments[0].failures))


async def test_restarted_broker_receives_everything_again(repo: Path, tmp_path: Path):
    """A broker that forgot its retained messages has them back after it restarts, and chunks are served on."""
    with brokers.mosquitto(tmp_path / "broker") as mosquitto:
        async with serving(repo, mosquitto.url) as journal:
            await asyncio.to_thread(mosquitto.stop)
            await journal.until("disconnected")
            await asyncio.to_thread(mosquitto.start)
            await journal.until("announced", 2)
            async with a_client(mosquitto.url) as client:
                await client.ask(TOPICS.trust(trust.FLEET, "metadata/timestamp.json"))
                assert len(await received(client, 1)) == 1


async def test_certificate_files_that_are_being_replaced_end_no_host(repo: Path, tmp_path: Path):
    """A connection that is lost meanwhile is tried again, as with an absent broker."""
    certify(tmp_path)
    files = f"cafile {tmp_path}/ca.crt\ncertfile {tmp_path}/broker.crt\nkeyfile {tmp_path}/broker.key"
    with brokers.mosquitto(tmp_path / "broker", f"{brokers.OPEN}\n{files}") as mosquitto:
        url = broker_urls.parse(mosquitto.url.replace("mqtt:", "mqtts:"))
        async with serving(repo, Broker(url=url, ca=tmp_path / "ca.crt")) as journal:
            whole = (tmp_path / "ca.crt").read_bytes()
            (tmp_path / "ca.crt").write_bytes(b"")
            await asyncio.to_thread(mosquitto.stop)
            await journal.until("disconnected", 3)
            (tmp_path / "ca.crt").write_bytes(whole)
            await asyncio.to_thread(mosquitto.start)
            await journal.until("connected", 2)
        (tmp_path / "ca.crt").write_bytes(b"")
        with pytest.raises(UsageError, match="certificate files"):
            await serve.serve(repo, Broker(url=url, ca=tmp_path / "ca.crt"), Journal())


async def test_missing_broker_is_a_transport_error(repo: Path):
    """When the first connection fails, the operator gets broker-unreachable, without the password."""
    nobody = broker_urls.parse(f"mqtt://edge:secret@127.0.0.1:{brokers.free_port()}")
    with pytest.raises(TransportError) as caught:
        await serve.serve(repo, Broker(url=nobody), Journal())
    assert caught.value.code == "broker-unreachable"
    assert "secret" not in caught.value.message


async def test_second_host_with_the_repositorys_certificate_is_refused(repo: Path):
    """A shared database doesn't help: at that broker the user's name is the client id, and both are the origin."""
    registry = Registry("postgresql://edgeml@127.0.0.1:9/fleet")  # nothing listens there, and it isn't asked
    broker = Broker(url=broker_urls.parse("mqtts://127.0.0.1:9"))
    with (
        repository.opened(repo).served(is_shared=True),
        pytest.raises(UsageError, match="another `edgeml fleet serve`"),
    ):
        await own_broker.serve(repo, Journal(), broker=broker, own=None, enroll=None, registry=registry)


async def test_second_host_of_a_folder_is_refused(repo: Path, tmp_path: Path):
    """Both would disconnect each other for ever; the folder is free again when the first one has ended."""
    with brokers.mosquitto(tmp_path / "broker") as broker:
        async with serving(repo, broker.url):
            with pytest.raises(UsageError, match=r"another `edgeml fleet serve` runs"):
                await serve.serve(repo, Broker(url=broker_urls.parse(broker.url)), Journal())
        async with serving(repo, broker.url):
            pass
