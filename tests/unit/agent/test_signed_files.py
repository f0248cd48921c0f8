"""Copies of signed files: the newest, bounded, and noticed."""

import asyncio

import pytest

from edgeml_agent.link import signed_files
from edgeml_agent.link.signed_files import BlockingFiles, SignedFiles
from edgeml_core import trust
from edgeml_core.messages import Topics

TOPICS = Topics("farm")


@pytest.fixture
def files():
    """Nothing held yet."""
    return SignedFiles(TOPICS)


def test_the_newest_copy_is_held_and_noticed(files):
    """The same again is no news; an empty payload withdraws it."""
    topic = TOPICS.trust("fleet", "metadata/timestamp.json")
    files.take(topic, b"one")
    assert files.get("fleet", "metadata/timestamp.json") == b"one"
    files.changed.clear()
    files.take(topic, b"one")
    assert not files.changed.is_set()
    files.take(topic, b"")
    assert files.changed.is_set()
    assert files.get("fleet", "metadata/timestamp.json") is None


def test_other_topics_are_not_kept(files):
    """Neither of unknown repositories nor targets nobody asked for."""
    for topic in (TOPICS.trust("other", "metadata/timestamp.json"), TOPICS.trust("fleet", "targets/x"), "x"):
        files.take(topic, b"data")
    assert not files.changed.is_set()


def test_floods_are_bounded(files, monkeypatch):
    """By number, by size together, and each by what metadata may be long."""
    for number in range(2 * signed_files.HELD_MAX_FILES):
        files.take(TOPICS.trust("fleet", f"metadata/{number}.root.json"), b"x")
    held = [number for number in range(600) if files.get("fleet", f"metadata/{number}.root.json")]
    assert held == list(range(signed_files.HELD_MAX_FILES, 2 * signed_files.HELD_MAX_FILES))
    files.take(TOPICS.trust("fleet", "metadata/long.json"), bytes(trust.METADATA_MAX_BYTES + 1))
    assert files.get("fleet", "metadata/long.json") is None
    monkeypatch.setattr(signed_files, "HELD_MAX_BYTES", 10)
    files.take(TOPICS.trust("fleet", "metadata/a.json"), b"123456")
    files.take(TOPICS.trust("fleet", "metadata/b.json"), b"123456")
    assert files.get("fleet", "metadata/a.json") is None
    assert files.get("fleet", "metadata/b.json") == b"123456"


def test_a_new_connection_begins_with_nothing(files):
    """A file that only a broker before had, such as a forged root, is gone; what comes again is news."""
    topic = TOPICS.trust("fleet", "metadata/2.root.json")
    files.take(topic, b"forged")
    files.changed.clear()
    files.forget()
    assert files.held == {}
    files.take(topic, b"forged")
    assert files.changed.is_set()


def test_an_expected_file_is_handed_over():
    """Of any topic, while it is expected."""

    async def run():
        files, topic = SignedFiles(TOPICS), TOPICS.trust("releases", "targets/x.json")
        with files.expected(topic) as arrival:
            files.take(topic, b"data")
            assert await arrival == b"data"
        files.take(topic, b"later")

    asyncio.run(run())


def test_a_thread_can_wait_for_a_file():
    """While the loop goes on."""

    async def file(repo, name):
        await asyncio.sleep(0)
        return f"{repo}/{name}".encode()

    async def run():
        blocking = BlockingFiles(file, asyncio.get_running_loop())
        return await asyncio.to_thread(blocking.read, "fleet", "metadata/timestamp.json")

    assert asyncio.run(run()) == b"fleet/metadata/timestamp.json"
