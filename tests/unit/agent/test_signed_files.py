"""Copies of signed files: the newest, bounded, and requested when they are missing."""

import asyncio

import pytest

from edgeml_agent.link import signed_files
from edgeml_agent.link.current import CurrentConnection
from edgeml_agent.link.signed_files import BlockingFiles, SignedFiles
from edgeml_core import trust
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Message
from support import fake_time
from support.memory_connection import URL, MemoryConnection

TOPICS = Topics("farm")
TIMESTAMP = TOPICS.trust("fleet", "metadata/timestamp.json")
NEWEST_ROOT = TOPICS.trust("fleet", "metadata/root.json")
TARGET = TOPICS.trust("releases", "targets/x.json")


def new_files(current=None):
    """Nothing held yet."""
    return SignedFiles(TOPICS, current or CurrentConnection(URL), "pi-1")


def receive(files, topic, payload):
    """Let a file come."""
    files.on_message(Message(topic, payload))


async def has_changed(files):
    """Whether there is a change that was not waited for yet."""
    try:
        async with asyncio.timeout(10 * signed_files.SETTLE_S):
            await files.changed()
    except TimeoutError:
        return False
    return True


def test_on_message_holds_the_newest_copy_and_counts_changes():
    """The same again is no change; an empty payload withdraws it."""

    async def main(_):
        files = new_files()
        receive(files, TIMESTAMP, b"one")
        assert files.held == {TIMESTAMP: b"one"}
        assert await has_changed(files)
        receive(files, TIMESTAMP, b"one")
        assert not await has_changed(files)
        receive(files, TIMESTAMP, b"")
        assert await has_changed(files)
        assert files.held == {}

    fake_time.run(main)


def test_changed_waits_until_a_burst_is_over():
    """A host publishes its files one after the other."""

    async def main(clock):
        files = new_files()
        receive(files, TIMESTAMP, b"0")
        waiting = asyncio.create_task(files.changed())
        for number in range(1, 5):
            await asyncio.sleep(signed_files.SETTLE_S / 2)
            receive(files, TIMESTAMP, b"%d" % number)
        assert not waiting.done()
        last_s = clock.now_s
        await waiting
        assert 0 < clock.now_s - last_s <= 2 * signed_files.SETTLE_S

    fake_time.run(main)


def test_on_message_on_other_topics_holds_nothing():
    """Neither of unknown repositories nor targets that were not requested."""

    async def main(_):
        files = new_files()
        for topic in (TOPICS.trust("other", "metadata/timestamp.json"), TOPICS.trust("fleet", "targets/x"), "x"):
            receive(files, topic, b"data")
        assert files.held == {}
        assert not await has_changed(files)

    fake_time.run(main)


def root(version):
    """A root, as far as the link reads it."""
    return b'{"signed": {"version": %d}}' % version


def test_floods_are_bounded(monkeypatch):
    """Only followed topics are held, each by the bound of metadata, and all together by another."""

    async def main(_):
        files = new_files()
        receive(files, NEWEST_ROOT, root(1))
        for number in range(600):
            receive(files, TOPICS.trust("fleet", f"metadata/{number}.root.json"), b"x")
            receive(files, TOPICS.trust("fleet", f"metadata/{number}.snapshot.json"), b"x")
        assert files.held == {NEWEST_ROOT: root(1)}
        receive(files, TIMESTAMP, bytes(trust.METADATA_MAX_BYTES + 1))
        assert TIMESTAMP not in files.held
        monkeypatch.setattr(signed_files, "HELD_MAX_BYTES", len(root(1)) + 1)
        receive(files, TIMESTAMP, b"12")
        assert files.held == {NEWEST_ROOT: root(1)}

    fake_time.run(main)


def test_roots_of_a_hundred_years_are_read_by_number():
    """The newest root tells which numbers exist; the others are requested one by one, and none in vain."""

    async def main(clock):
        current, connection, began_s = CurrentConnection(URL), MemoryConnection(), clock.now_s
        files = new_files(current)
        receive(files, NEWEST_ROOT, root(300))
        with current.use(connection):
            for number in (298, 299):
                topic = TOPICS.trust("fleet", f"metadata/{number}.root.json")
                reading = asyncio.create_task(files.read("fleet", f"metadata/{number}.root.json"))
                await asyncio.sleep(0)
                receive(files, topic, root(number))
                assert await reading == root(number)
            assert await files.read("fleet", "metadata/300.root.json") == root(300)
            assert await files.read("fleet", "metadata/301.root.json") is None
            assert clock.now_s == began_s
            assert list(connection.subscribed) == [topic]

    fake_time.run(main)


def test_metadata_that_was_read_is_followed_until_its_role_has_another_file():
    """So a device sees that the host has repaired a forged file; the earlier file's topic is left."""

    async def main(_):
        current, connection = CurrentConnection(URL), MemoryConnection()
        files, names = new_files(current), ("metadata/5.snapshot.json", "metadata/6.snapshot.json")
        topics = [TOPICS.trust("fleet", name) for name in names]
        with current.use(connection):
            for name, topic in zip(names, topics, strict=True):
                reading = asyncio.create_task(files.read("fleet", name))
                await asyncio.sleep(0)
                receive(files, topic, b"forged")
                assert await reading == b"forged"
                assert list(connection.subscribed) == [topic]
            assert not await has_changed(files)
            receive(files, topics[0], b"old")
            assert not await has_changed(files)
            receive(files, topics[1], b"repaired")
            assert await has_changed(files)
            assert await files.read("fleet", names[1]) == b"repaired"
            assert topics[0] not in files.held
            assert (topics[1], 1) in files.subscriptions

    fake_time.run(main)


def test_subscriptions_have_no_wildcard_and_no_dot():
    """RabbitMQ retains for exact topics only, and takes a dot for a slash."""
    files = [f"{TOPICS.root}/trust/{it}/metadata/{name}" for name in ("root", "timestamp") for it in trust.REPOSITORIES]
    assert [topic for topic, _ in new_files().subscriptions] == [f"{TOPICS.root}/record/pi-1", *files]


def test_restart_forgets_all_files():
    """A file that only an earlier broker had, such as a forged root, is gone; its return is a change."""

    async def main(_):
        files = new_files()
        receive(files, TIMESTAMP, b"forged")
        assert await has_changed(files)
        files.restart()
        assert files.held == {}
        assert await has_changed(files), "a new connection is one by itself"
        receive(files, TIMESTAMP, b"forged")
        assert await has_changed(files)

    fake_time.run(main)


def test_read_requests_a_file_that_is_not_held():
    """It subscribes for the time of the request."""

    async def main(_):
        current, connection = CurrentConnection(URL), MemoryConnection()
        files = new_files(current)
        with current.use(connection):
            reading = asyncio.create_task(files.read("releases", "targets/x.json"))
            await asyncio.sleep(1)
            assert connection.subscribed == {TARGET: 1}
            receive(files, TARGET, b"data")
            assert await reading == b"data"
            assert connection.subscribed == {}

    fake_time.run(main)


def test_read_of_a_file_that_the_broker_lacks_ends_in_time():
    """None, after the wait; a root with a higher number than the newest has at once."""

    async def main(clock):
        current, connection = CurrentConnection(URL), MemoryConnection()
        files = new_files(current)
        with current.use(connection):
            receive(files, NEWEST_ROOT, root(1))
            began_s = clock.now_s
            assert await files.read("fleet", "metadata/2.root.json") is None
            assert clock.now_s == began_s
            assert await files.read("releases", "targets/x.json") is None
            assert clock.now_s - began_s == pytest.approx(signed_files.RETAINED_WAIT_S + signed_files.SETTLE_S)
            assert connection.subscribed == {}

    fake_time.run(main)


@pytest.mark.parametrize("inbox_s", [-0.1, 0.1])
def test_read_of_a_file_that_takes_long_waits_for_its_end(inbox_s):
    """The manifest of a large model takes a minute on a slow network; the broker answers behind it."""

    class SlowConnection(MemoryConnection):
        """A connection whose broker is still sending the target when the device unsubscribes."""

        async def unsubscribe(self, topics):
            """Confirm behind the target, which the dispatcher handles `inbox_s` later."""
            asyncio.get_running_loop().call_later(40 + inbox_s, receive, files, TARGET, b"data")
            await asyncio.sleep(40)
            await super().unsubscribe(topics)

    async def main(_):
        with current.use(connection):
            assert await files.read("releases", "targets/x.json") == b"data"
            assert connection.subscribed == {}

    current, connection = CurrentConnection(URL), SlowConnection()
    files = new_files(current)
    fake_time.run(main)


def test_read_on_a_lost_connection_is_an_error_of_the_agent():
    """Not None: the file may well be there."""

    async def main(_):
        current, connection = CurrentConnection(URL), MemoryConnection()
        files = new_files(current)
        with current.use(connection):
            connection.answers.clear()
            reading = asyncio.create_task(files.read("releases", "targets/x.json"))
            await asyncio.sleep(1)
            connection.lose()
            with pytest.raises(TransportError, match="lost"):
                await reading

    fake_time.run(main)


def test_blocking_read_waits_in_a_thread():
    """While the loop goes on."""

    def read(blocking):
        return blocking.read("fleet", "metadata/timestamp.json"), blocking.record("pi-1"), blocking.record("pi-2")

    async def main():
        files = new_files()
        receive(files, TIMESTAMP, b"time")
        receive(files, TOPICS.record("pi-1"), b"record")
        receive(files, TOPICS.record("pi-2"), b"of another device")
        return await asyncio.to_thread(read, BlockingFiles(files, asyncio.get_running_loop()))

    assert asyncio.run(main()) == (b"time", b"record", None)


def test_records_of_a_site_are_requested_once_and_then_followed():
    """A relay reads them at each look; a site without any is waited for once."""

    async def main(_):
        connection = MemoryConnection()
        current = CurrentConnection(URL)
        files = new_files(current)
        with current.use(connection):
            assert await files.site("barn.2") is None
            before = asyncio.get_running_loop().time()
            assert await files.site("barn.2") is None
            assert asyncio.get_running_loop().time() == before
            receive(files, TOPICS.site("barn.2"), b"records")
            assert await has_changed(files)
            assert await files.site("barn.2") == b"records"
        assert (f"{TOPICS.root}/site/barn~2", 1) in files.subscriptions

    fake_time.run(main)


def test_records_of_a_site_are_awaited_again_on_a_new_connection():
    """On a slow network they arrive after the metadata: without them a relay would serve nobody meanwhile."""

    async def main(_):
        current = CurrentConnection(URL)
        files = new_files(current)

        async def arrive():
            await asyncio.sleep(signed_files.RETAINED_WAIT_S / 2)
            receive(files, TOPICS.site("barn"), b"records")

        for _ in range(2):
            files.restart()
            with current.use(MemoryConnection()):
                arriving = asyncio.create_task(arrive())
                assert await files.site("barn") == b"records"
                await arriving

    fake_time.run(main)


@pytest.mark.parametrize("newer", [b"newer records", b""])
def test_records_of_a_site_stay_until_the_new_connection_brings_others(newer):
    """They take long over a slow network. Their signatures are verified again; the host clears those of no site."""

    async def main(_):
        current = CurrentConnection(URL)
        files = new_files(current)
        with current.use(MemoryConnection()):
            await files.site("barn")
            receive(files, TOPICS.site("barn"), b"records")
        for _ in range(2):
            files.restart()
            with current.use(MemoryConnection()):
                for _ in range(2):
                    assert await files.site("barn") == b"records"
        with current.use(MemoryConnection()):
            assert await files.site("other") is None
            assert await files.site("barn") == b"records"
            receive(files, TOPICS.site("barn"), newer)
            assert await files.site("barn") == (newer or None)

    fake_time.run(main)
