"""The announcer, on a broker in memory: only new files, the timestamp last, and foreign content repaired."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from edgeml import repository
from edgeml.fleet import announcer
from edgeml.fleet.announcer import Announcer
from edgeml.repository import NewKeys, layout
from edgeml_core import chunks, trust
from edgeml_core.desired import Deployment
from edgeml_core.messages import Topics
from support.memory_connection import MemoryConnection

TOPICS = Topics("farm")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one deployment."""
    repository.init(tmp_path / "repo", fleet="farm")
    change(tmp_path / "repo", "d-1")
    return tmp_path / "repo"


def change(repo: Path, deployment: str) -> None:
    """Change the fleet document."""
    opened = repository.opened(repo)
    added = Deployment(id=deployment, name="m", version="1", selector="", percent=100.0, bundles=())
    document = opened.document()
    changed = msgspec.structs.replace(document, deployments=(*document.deployments, added))
    opened.write_document(changed, layout.utc_now())


def announce(at: Announcer, repo: Path) -> None:
    """Announce the repository as it is now."""

    async def run() -> None:
        for signed in repository.opened(repo).both:
            await at.announce(signed)

    asyncio.run(run())


def topic(signed, file: str) -> str:
    """The topic of a file."""
    return TOPICS.trust(signed.name, file)


@pytest.fixture
def broker() -> MemoryConnection:
    """A broker that retains nothing yet."""
    return MemoryConnection()


def test_announce_retains_every_file_and_the_timestamp_last(repo: Path, broker: MemoryConnection):
    """A device that sees the timestamp finds all others."""
    announce(Announcer(broker, TOPICS), repo)
    for signed in repository.opened(repo).both:
        files = signed.files()
        assert {topic(signed, it): (signed.folder / it).read_bytes() for it in files}.items() <= broker.retained.items()
        tree = f"{TOPICS.root}/trust/{signed.name}/"
        published = [it for it, data in broker.published if data and it.startswith(tree)]
        assert published[-1] == topic(signed, trust.TIMESTAMP_FILE)


def test_announce_again_publishes_only_what_has_changed(repo: Path, broker: MemoryConnection):
    """The files of the state before stay for devices that read it, until the next change."""
    at = Announcer(broker, TOPICS)
    announce(at, repo)
    before = {it for it, payload in broker.retained.items() if payload}
    change(repo, "d-2")
    broker.published.clear()
    announce(at, repo)
    again = {it for it, _ in broker.published} & before
    assert again == {topic(signed, trust.TIMESTAMP_FILE) for signed in repository.opened(repo).both}
    assert all(broker.retained[it] for it in before)
    change(repo, "d-3")
    announce(at, repo)
    cleared = {it for it in before if not broker.retained[it]}
    current = {topic(signed, file) for signed in repository.opened(repo).both for file in signed.files()}
    assert cleared
    assert not cleared & current


def test_metadata_that_the_broker_does_not_take_keeps_the_timestamp_back(repo: Path):
    """Devices keep to the state before, of which they have all files."""
    signed = repository.opened(repo).fleet
    sizes = {file: (signed.folder / file).stat().st_size for file in signed.files()}
    longest = max((file for file in sizes if file.startswith(trust.METADATA_DIR)), key=sizes.__getitem__)
    broker = MemoryConnection(payload_max_bytes=sizes[longest] - 1)
    (refused,) = asyncio.run(Announcer(broker, TOPICS).announce(signed))
    assert refused.code == "packet-too-long"
    assert longest in refused.message
    assert topic(signed, trust.TIMESTAMP_FILE) not in broker.retained


def test_repair_restores_own_files_and_clears_foreign_ones(repo: Path, broker: MemoryConnection):
    """The echo of an own message is no change."""
    at = Announcer(broker, TOPICS)
    announce(at, repo)
    own, foreign = TOPICS.trust("fleet", trust.TIMESTAMP_FILE), TOPICS.trust("fleet", "metadata/99.root.json")
    retained = dict(broker.retained)
    for it, payload in retained.items():
        at.on_message(it, payload)
    assert asyncio.run(at.repair()) == 0
    for it, payload in ((own, b"{}"), (foreign, b"{}")):
        broker.retained[it] = payload
        at.on_message(it, payload)
    assert asyncio.run(at.repair()) == 2
    assert broker.retained == retained | {foreign: b""}


def test_repair_after_the_own_message_came_back_does_nothing(repo: Path, broker: MemoryConnection):
    """Another host's announcement of the same file ends the repair."""
    at = Announcer(broker, TOPICS)
    announce(at, repo)
    own = TOPICS.trust("fleet", trust.TIMESTAMP_FILE)
    at.on_message(own, b"{}")
    at.on_message(own, broker.retained[own])
    assert asyncio.run(at.repair()) == 0


def test_files_from_before_the_host_was_away_are_no_others(repo: Path, broker: MemoryConnection):
    """A slow broker gives them after the announcement, and the echo later than the next repair."""
    at = Announcer(broker, TOPICS)
    own, foreign = TOPICS.trust("fleet", trust.TIMESTAMP_FILE), TOPICS.trust("fleet", "metadata/99.root.json")
    at.on_message(own, b"before", is_retained=True)
    announce(at, repo)
    assert asyncio.run(at.repair()) == 0
    at.on_message(own, b"before", is_retained=True)
    at.on_message(foreign, b"{}", is_retained=True)
    broker.retained[own] = b"before"
    assert asyncio.run(at.repair()) == 1
    assert broker.retained[own] != b"before"


def test_foreign_topics_are_bounded(broker: MemoryConnection, monkeypatch: pytest.MonkeyPatch):
    """A client that writes on a million topics fills no memory."""
    monkeypatch.setattr(announcer, "FOREIGN_MAX_TOPICS", 3)
    at = Announcer(broker, TOPICS)
    for number in range(10):
        at.on_message(TOPICS.trust("fleet", f"metadata/{number}"), b"x")
    assert asyncio.run(at.repair()) == 3


def test_newest_root_has_a_topic_of_its_own(repo: Path, broker: MemoryConnection):
    """A device that subscribes to it learns of a new root, however many there have been."""
    at = Announcer(broker, TOPICS)
    announce(at, repo)
    newest = TOPICS.trust("fleet", trust.NEWEST_ROOT_FILE)
    first = repository.opened(repo).fleet.newest_root()
    assert broker.retained[newest] == first
    repository.rotate(repo, "fleet", NewKeys())
    broker.published.clear()
    announce(at, repo)
    second = repository.opened(repo).fleet.newest_root()
    assert second != first
    assert broker.retained[newest] == broker.retained[TOPICS.trust("fleet", "metadata/2.root.json")] == second
    assert broker.retained[TOPICS.trust("fleet", "metadata/1.root.json")] == first
    published = [topic for topic, _ in broker.published if topic.startswith(f"{TOPICS.root}/trust/fleet/")]
    assert published.index(newest) < published.index(TOPICS.trust("fleet", trust.TIMESTAMP_FILE))


def test_equal_content_of_another_target_stays(repo: Path, broker: MemoryConnection):
    """A topic names a target by its digest: a superseded file doesn't clear a present one of the same content."""
    signed = repository.opened(repo).releases
    digest = chunks.sha256(b"{}")
    signed.change({"b.json": b"{}"}, layout.utc_now())
    (signed.folder / "targets" / f"{digest}.a.json").write_bytes(b"{}")
    announce(Announcer(broker, TOPICS), repo)
    assert broker.retained[TOPICS.trust("releases", f"targets/{digest}.b.json")] == b"{}"


def test_stamps_differ_after_every_change(repo: Path):
    """And only then."""
    before = announcer.stamps(repository.opened(repo))
    assert announcer.stamps(repository.opened(repo)) == before
    change(repo, "d-2")
    assert announcer.stamps(repository.opened(repo)) != before
