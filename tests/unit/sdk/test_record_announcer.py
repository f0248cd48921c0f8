"""Records on a broker in memory: only those that changed, and those that others have overwritten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeml import Repository, repository
from edgeml.fleet import record_announcer
from edgeml.fleet.record_announcer import RecordAnnouncer
from edgeml_core import records
from edgeml_core.messages import Topics
from support.memory_connection import MemoryConnection

TOPICS = Topics("farm")


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    """A barn with three devices, a mill with one, and one device without a site."""
    made = Repository.init(tmp_path / "repo", fleet="farm", passphrase="")
    for device, site in (("b-1", "barn"), ("b-2", "barn"), ("b-3", "barn"), ("m-1", "mill"), ("x-1", "")):
        made.enroll(device, labels={"site": site} if site else {}, output=tmp_path / device)
    return made


class Announced:
    """A host's connection to a broker, and what it announces."""

    def __init__(self, repo: Repository) -> None:
        self.records = repository.opened(repo.path).records
        self.broker = MemoryConnection()
        self.announcer = RecordAnnouncer(self.broker, TOPICS, self.records)

    def look(self) -> tuple[set[str], list[str]]:
        """The topics that are published on at a look at the repository, and the codes of errors."""
        self.broker.published.clear()
        refused = asyncio.run(self.announcer.announce(self.records.all()))
        return {topic.removeprefix(f"{TOPICS.root}/") for topic, _ in self.broker.published}, [
            it.code for it in refused
        ]


def test_announce_retains_each_record_and_those_of_sites_together(repo: Repository):
    """A site of one device has no relay to serve."""
    at = Announced(repo)
    devices = ("b-1", "b-2", "b-3", "m-1", "x-1")
    assert at.look() == ({*(f"record/{it}" for it in devices), "site/barn"}, [])
    lines = at.records.encoded(devices)
    assert {it: at.broker.retained[TOPICS.record(it)] for it in devices} == lines
    barn = records.unpack_site(at.broker.retained[TOPICS.site("barn")])
    assert barn == [lines["b-1"], lines["b-2"], lines["b-3"]]
    assert at.look() == (set(), [])


def test_relabelling_publishes_one_record_and_its_sites(repo: Repository):
    """A device that moves leaves its site's message; the mill's has two devices now."""
    at = Announced(repo)
    at.look()
    repo.relabel("x-1", {"ring": "early"})
    assert at.look() == ({"record/x-1"}, [])
    repo.relabel("b-1", {"site": "mill"})
    assert at.look() == ({"record/b-1", "site/barn", "site/mill"}, [])
    repo.revoke("b-2")
    assert at.look() == ({"record/b-2", "site/barn"}, [])
    repo.relabel("b-3", {"site": "mill"})
    assert at.look() == ({"record/b-3", "site/barn", "site/mill"}, [])
    assert at.broker.retained[TOPICS.site("barn")] == b"", "one device is left"


def test_topics_that_others_write_are_published_again(repo: Repository):
    """Overwritten, cleared, and of a device that isn't enrolled; the echo of an own message is no change."""
    at = Announced(repo)
    at.look()
    for topic, payload in at.broker.retained.items():
        at.announcer.on_message(topic, payload)
    assert asyncio.run(at.announcer.repair()) == 0
    for topic in (TOPICS.record("b-1"), TOPICS.record("stranger"), TOPICS.site("barn")):
        at.announcer.on_message(topic, b"foreign")
    at.announcer.on_message(TOPICS.record("m-1"), b"")
    at.announcer.on_message(TOPICS.record("nobody"), b"")
    at.broker.published.clear()
    assert asyncio.run(at.announcer.repair()) == 4
    assert dict(at.broker.published).keys() == {
        *map(TOPICS.record, ("b-1", "m-1", "stranger")), TOPICS.site("barn"),
    }  # fmt: skip
    assert at.broker.retained[TOPICS.record("stranger")] == b""
    assert at.look() == (set(), [])


def test_flood_of_foreign_topics_is_bounded(repo: Repository):
    """More of them are repaired at the next connection."""
    at = Announced(repo)
    for number in range(record_announcer.FOREIGN_MAX_TOPICS + 50):
        at.announcer.on_message(TOPICS.record(f"d-{number}"), b"x")
    assert asyncio.run(at.announcer.repair()) == record_announcer.FOREIGN_MAX_TOPICS


def test_site_with_too_many_devices_is_named_once(repo: Repository, monkeypatch):
    """Its devices still get their records."""
    monkeypatch.setattr(records, "SITE_DEVICES_MAX", 2)
    at = Announced(repo)
    topics, codes = at.look()
    assert ("site/barn" in topics, "record/b-3" in topics, codes) == (False, True, ["packet-too-long"])
    repo.relabel("x-1", {"ring": "early"})
    assert at.look() == ({"record/x-1"}, [])


def test_message_that_the_broker_does_not_take_is_named(repo: Repository):
    """All else goes on."""
    at = Announced(repo)
    at.broker.payload_max_bytes = 400
    topics, codes = at.look()
    assert "record/b-1" in topics
    assert codes == ["packet-too-long"]
