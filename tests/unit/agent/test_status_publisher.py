"""The state and the outbox on a connection that confirms, hesitates or ends."""

import asyncio

import pytest

from edgeml_agent.link import outbox, status
from edgeml_agent.link.status import StatusPublisher
from edgeml_core import messages
from edgeml_core.calls import Reply
from edgeml_core.messages import DeviceState, Report, Topics
from support import fake_time
from support.memory_connection import MemoryConnection

TOPICS = Topics("farm")
STATE, REPORT, REPLY = TOPICS.state("pi"), TOPICS.report("pi"), TOPICS.reply("pi")


def a_report(version):
    """A report."""
    return Report(deployment="d", name="mood", version=version, state="fetching", session=0)


def a_publisher():
    """The publisher of a device in its third session."""
    publisher = StatusPublisher(TOPICS, "pi")
    publisher.session = 3
    return publisher


async def settled():
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_run_publishes_the_state_first_and_then_the_outbox():
    """With the session of this connection; the state is retained."""

    async def main(_):
        publisher, connection = a_publisher(), MemoryConnection()
        publisher.report(a_report("1.0"))
        publisher.reply(Reply(id="call"))
        publisher.forward("elsewhere", b"forwarded")
        running = asyncio.create_task(publisher.run(connection))
        await settled()
        running.cancel()
        return connection

    connection = fake_time.run(main)
    assert connection.published[0][0] == STATE
    assert [topic for topic, _ in connection.published if topic != "elsewhere"] == [STATE, REPORT, REPLY]
    assert messages.decode(connection.retained[STATE], DeviceState) == DeviceState(online=True, session=3)
    assert messages.decode(dict(connection.published)[REPORT], Report).session == 3
    assert ("elsewhere", b"forwarded") in connection.published


def test_show_publishes_a_state_once():
    """The same state again is no change."""

    async def main(_):
        publisher, connection = a_publisher(), MemoryConnection()
        running = asyncio.create_task(publisher.run(connection))
        await settled()
        for arch in ("aarch64", "aarch64", "x86_64"):
            publisher.publish_state(DeviceState(online=True, session=0, arch=arch))
            await settled()
        running.cancel()
        return [messages.decode(payload, DeviceState).arch for _, payload in connection.published]

    assert fake_time.run(main) == ["", "aarch64", "x86_64"]


def test_lost_connection_keeps_the_message_that_was_not_acknowledged():
    """The next connection publishes it, with its own session, before all others."""

    async def main(_):
        publisher, first, second = a_publisher(), MemoryConnection(), MemoryConnection()
        running = asyncio.create_task(publisher.run(first))
        await settled()
        first.answers.clear()
        publisher.report(a_report("1.0"))
        publisher.report(a_report("2.0"))
        await settled()
        assert first.events[-1] == ("publish", REPORT)
        first.lose()
        with pytest.raises(ExceptionGroup):
            await running
        publisher.session = 4
        running = asyncio.create_task(publisher.run(second))
        await settled()
        running.cancel()
        return [messages.decode(payload, Report) for topic, payload in second.published if topic == REPORT]

    assert [(it.version, it.session) for it in fake_time.run(main)] == [("1.0", 4), ("2.0", 4)]


def test_cancelled_connection_keeps_the_message_that_was_not_acknowledged():
    """Another part of the link notices the end first, and its failure cancels this one."""

    async def main(_):
        publisher, first, second = a_publisher(), MemoryConnection(), MemoryConnection()
        first.answers.clear()
        publisher.report(a_report("1.0"))
        for connection in (first, second):
            running = asyncio.create_task(publisher.run(connection))
            await settled()
            running.cancel()
        return [topic for topic, _ in second.published]

    assert fake_time.run(main) == [STATE, REPORT]


def test_publish_offline_does_not_wait_for_a_silent_broker():
    """The time is bounded, and the will says the same."""

    async def main(clock):
        publisher, connection = a_publisher(), MemoryConnection()
        connection.answers.clear()
        began_s = clock.now_s
        await publisher.publish_offline(connection)
        assert clock.now_s - began_s == pytest.approx(status.GOODBYE_S)
        connection.answers.set()
        await publisher.publish_offline(connection)
        return publisher.will, connection

    will, connection = fake_time.run(main)
    assert (will.topic, will.payload) == (STATE, connection.retained[STATE])
    assert not messages.decode(will.payload, DeviceState).online


def test_message_that_the_broker_does_not_take_leaves_the_outbox():
    """The next one is published; before, the connection ended at it, again and again."""

    async def main(_):
        publisher, connection = a_publisher(), MemoryConnection(payload_max_bytes=1000)
        publisher.forward("elsewhere", bytes(2000))
        publisher.forward("elsewhere", b"short")
        running = asyncio.create_task(publisher.run(connection))
        await settled()
        running.cancel()
        return connection

    assert fake_time.run(main).published[1:] == [("elsewhere", b"short")]


def test_forwarded_messages_displace_no_report(monkeypatch):
    """A flood of them drops the oldest of their own."""
    monkeypatch.setattr(outbox, "OUTBOX_MAX_MESSAGES", 5)

    async def main(_):
        publisher, connection = a_publisher(), MemoryConnection()
        publisher.report(a_report("1.0"))
        for number in range(100):
            publisher.forward("elsewhere", b"%d" % number)
        waiting = asyncio.create_task(publisher.all_forwarded())
        await settled()
        assert not waiting.done()
        running = asyncio.create_task(publisher.run(connection))
        await settled()
        assert waiting.done()
        running.cancel()
        return connection

    published = fake_time.run(main).published
    assert [topic for topic, _ in published].count(REPORT) == 1
    assert [payload for topic, payload in published if topic == "elsewhere"] == [b"95", b"96", b"97", b"98", b"99"]


def test_replies_displace_no_report():
    """An operator's calls come as fast as the broker delivers them, and each is answered."""

    async def main(_):
        publisher, connection = a_publisher(), MemoryConnection()
        publisher.report(a_report("1.0"))
        for number in range(2 * outbox.OUTBOX_MAX_MESSAGES):
            publisher.reply(Reply(id=str(number)))
        running = asyncio.create_task(publisher.run(connection))
        await settled()
        running.cancel()
        return [topic for topic, _ in connection.published]

    assert REPORT in fake_time.run(main)
