"""Hosts that share a PostgreSQL: each answers its part of the wants, one announces and records, another takes over."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgeml import repository
from edgeml.fleet import leadership, serve
from edgeml.fleet.leadership import Election, hosts
from edgeml.fleet.link import Broker
from edgeml.fleet.registry import Registry
from edgeml_core import broker as broker_urls
from edgeml_core import chunks, messages, wire_keys
from edgeml_core.errors import UsageError
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_io.mqtt import Options, Session
from edgeml_origin.origin import Origin
from support import brokers, deployed_repository, postgresql
from support.waiting import until_async

pytestmark = pytest.mark.anyio

TOPICS = Topics("farm")
DEVICES = [f"pi-{number}" for number in range(8)]
KEYS = tuple(wire_keys.chunk_id(chunks.sha256(bytes([number]))) for number in range(40))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one release, eight devices and one deployment."""
    return deployed_repository.make(tmp_path, DEVICES)


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    """One server for the module."""
    with postgresql.postgresql() as running:
        yield running


@pytest.fixture
def elections(monkeypatch: pytest.MonkeyPatch) -> list[Election]:
    """The hosts' elections, in the order of their start."""
    made: list[Election] = []
    turn = Election.turn

    async def noted(election: Election) -> None:
        if election not in made:
            made.append(election)
        await turn(election)

    monkeypatch.setattr(Election, "turn", noted)
    monkeypatch.setattr(leadership, "TURN_EVERY_S", 0.1)
    return made


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> defaultdict[int, list[str]]:
    """The keys that each host's origin is to answer."""
    keys_of: defaultdict[int, list[str]] = defaultdict(list)
    want = Origin.want

    def noted(origin: Origin, device: str, keys: Sequence[str]) -> None:
        keys_of[id(origin)] += keys
        want(origin, device, keys)

    monkeypatch.setattr(Origin, "want", noted)
    return keys_of


class Replica:
    """One host in this process, with its events."""

    def __init__(self, repo: Path, broker_url: str, database_url: str) -> None:
        self.names: list[str] = []
        where = Broker(url=broker_urls.parse(broker_url))
        self.task = asyncio.create_task(serve.serve(repo, where, self, registry=Registry(database_url)))

    def event(self, name: str, text: str, **fields: object) -> None:
        """Note an event."""
        self.names.append(name)

    async def until(self, name: str, count: int = 1) -> None:
        """Wait for an event; the host must not end before."""
        await until_async(lambda: self.names.count(name) >= count or self.task.done(), name)
        if self.task.done():
            self.task.result()

    async def end(self) -> None:
        """End the host."""
        self.task.cancel()
        await asyncio.wait({self.task})


async def test_hosts_share_the_wants_and_one_records(
    repo: Path,
    server: postgresql.Server,
    tmp_path: Path,
    elections: list[Election],
    wanted: defaultdict[int, list[str]],
):
    """Each message is recorded once; when the leader ends, the other announces, records and answers all wants."""
    (deployment,) = repository.opened(repo).document().deployments
    registry = Registry(server.url)
    with brokers.mosquitto(tmp_path / "broker") as broker:
        first = Replica(repo, broker.url, server.url)
        await first.until("announced")
        second = Replica(repo, broker.url, server.url)
        await second.until("connected")
        await until_async(lambda: len(hosts(registry.database)) == 2)
        session = Session(broker_urls.parse(broker.url), "devices", Options(inbox_max_messages=100))
        async with session.connected() as devices:

            async def report(what: str) -> None:
                for device in DEVICES:
                    for state in ("fetching", what):
                        sent = Report(deployment=deployment.id, name="sample", version="1.0", state=state, session=1)
                        await devices.publish(TOPICS.report(device), messages.encode(sent), qos=1)

            def has_all(what: str) -> bool:
                reports = registry.reports(deployment.id)
                return [reports[it].state for it in DEVICES if it in reports] == [what] * len(DEVICES)

            await devices.publish(TOPICS.state("pi-1"), messages.encode(DeviceState(online=True, session=1)), qos=1)
            await until_async(lambda: [it.part.count for it in elections] == [2, 2], "the hosts' parts")
            await devices.publish(TOPICS.want("pi-1"), messages.encode(Want(keys=KEYS)))
            await until_async(lambda: sum(map(len, wanted.values())) >= len(KEYS), "the wants")
            assert sorted(itertools.chain(*wanted.values())) == sorted(KEYS)
            assert min(map(len, wanted.values())) > len(KEYS) / 4
            await report("active")
            await until_async(lambda: has_all("active"))
            assert [it.message.state for it in registry.history("pi-1", "report")] == ["active", "fetching"]

            await first.end()
            await report("rolled back")
            await second.until("announced")
            assert second.names.count("leader-changed") == 1
            await until_async(lambda: has_all("rolled back"))
            await until_async(lambda: elections[1].part.count == 1)
            wanted.clear()
            await devices.publish(TOPICS.want("pi-1"), messages.encode(Want(keys=KEYS)))
            await until_async(lambda: list(wanted.values()) == [list(KEYS)])
        await second.end()
    assert hosts(registry.database) == []
    registry.close()


async def test_a_host_with_another_database_is_refused(repo: Path, server: postgresql.Server, tmp_path: Path):
    """Both would lead, sign and announce."""
    with brokers.mosquitto(tmp_path / "broker") as broker:
        first = Replica(repo, broker.url, server.url)
        await first.until("announced")
        with pytest.raises(UsageError):
            await serve.serve(repo, Broker(url=broker_urls.parse(broker.url)), first)
        await first.end()
