"""Chunks over connections that come and go."""

import asyncio

import pytest

from edgeml_agent.link.chunk_feed import POSITION_WAIT_S, ChunkFeed
from edgeml_agent.link.chunk_topics import STARVED_S
from edgeml_agent.link.current import CurrentConnection
from edgeml_core import messages
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics, Want
from edgeml_io.mqtt import Message
from support import fake_time
from support.memory_connection import URL, MemoryConnection

TOPICS = Topics("farm")
A, B = "a" * 32, "b" * 32
RELEASE = "1" * 32


class Bench:
    """A feed, and its first connection."""

    def __init__(self, max_bytes_per_s=None):
        self.current = CurrentConnection(URL)
        self.feed = ChunkFeed(TOPICS, "pi", self.current, max_bytes_per_s)
        self.connection = MemoryConnection()


async def settled():
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def wants(connection):
    """The keys of each want."""
    topic = TOPICS.want("pi")
    return [messages.decode(payload, Want).keys for to, payload in connection.published if to == topic]


def test_want_subscribes_before_it_asks():
    """The answer may come at once."""

    async def main(_):
        bench = Bench()
        with bench.current.use(bench.connection):
            await bench.feed.want([A, B])
            await settled()
        return bench.connection

    connection = fake_time.run(main)
    assert connection.events == [("subscribe", [TOPICS.chunk(A), TOPICS.chunk(B)]), ("publish", TOPICS.want("pi"))]
    assert wants(connection) == [(A, B)]


def test_want_does_not_wait_for_the_confirmation():
    """It follows all chunks on their way, which may take a minute."""

    async def main(_):
        bench = Bench()
        bench.connection.answers.clear()
        with bench.current.use(bench.connection):
            await bench.feed.want([A])
            await settled()
        return wants(bench.connection)

    assert fake_time.run(main) == [(A,)]


def test_want_of_many_keys_is_split(monkeypatch):
    """A message has a bound."""
    monkeypatch.setattr(messages, "WANTS_MAX", 2)

    async def main(_):
        bench = Bench()
        with bench.current.use(bench.connection):
            await bench.feed.want([A, B, "c" * 32])
            await settled()
        return [len(keys) for keys in wants(bench.connection)]

    assert fake_time.run(main) == [2, 1]


def test_want_waits_for_the_rate_limit():
    """Two seconds' worth has arrived."""

    async def main(clock):
        bench = Bench(max_bytes_per_s=1000)
        with bench.current.use(bench.connection):
            await bench.feed.want([A])
            bench.feed.on_message(Message(TOPICS.chunk(A), bytes(2000)))
            began_s = clock.now_s
            await bench.feed.want([B])
            return clock.now_s - began_s

    assert fake_time.run(main) == pytest.approx(2.0)


def test_want_on_a_lost_connection_is_asked_again_on_the_next():
    """With all keys that are still wanted; the lost request raises nothing."""

    async def main(_):
        bench, second = Bench(), MemoryConnection()
        with bench.current.use(bench.connection):
            await bench.feed.want([A, B])
            await settled()
            bench.connection.lose()
            await bench.feed.want([A])
            await settled()
        await bench.feed.drop([B])
        bench.feed.restart(second)
        await settled()
        return second

    second = fake_time.run(main)
    assert second.subscribed == {TOPICS.chunk(A): 0}
    assert wants(second) == [(A,)]


def test_drop_and_leftover_topics_are_unsubscribed_together():
    """A topic of an earlier run is left at its first message."""

    async def main(_):
        bench = Bench()
        with bench.current.use(bench.connection):
            await bench.feed.want([A])
            running = asyncio.create_task(bench.feed.run(bench.connection))
            await settled()
            await bench.feed.drop([A])
            bench.feed.on_message(Message(TOPICS.chunk(B), b"leftover"))
            await settled()
            running.cancel()
        return bench.connection.events

    assert fake_time.run(main)[-1] == ("unsubscribe", [TOPICS.chunk(A), TOPICS.chunk(B)])


def test_announcement_asks_again_only_for_starved_chunks():
    """A host that announces while chunks arrive knows the wants."""

    async def main(_):
        bench = Bench()
        bench.feed.on_announcement()
        with bench.current.use(bench.connection):
            bench.feed.on_announcement()
            await bench.feed.want([A])
            bench.feed.on_message(Message(TOPICS.chunk(A), b"\0chunk"))
            bench.feed.on_announcement()
            await settled()
            assert len(wants(bench.connection)) == 1
            await asyncio.sleep(2 * STARVED_S)
            bench.feed.on_announcement()
            await settled()
        return wants(bench.connection)

    assert fake_time.run(main) == [(A,), (A,)]


def test_follow_waits_a_moment_for_the_position():
    """It is retained, or there is none."""

    async def main(clock):
        bench = Bench()
        with bench.current.use(bench.connection):
            began_s = clock.now_s
            await bench.feed.follow(RELEASE)
            assert clock.now_s - began_s == pytest.approx(POSITION_WAIT_S)
            assert bench.feed.position == ""
            bench.feed.on_message(Message(TOPICS.wave(RELEASE), A.encode()))
        return bench.feed.position, bench.connection.subscribed

    assert fake_time.run(main) == (A, {TOPICS.wave(RELEASE): 0})


def test_follow_on_a_lost_connection_fails_as_an_error_of_the_agent():
    """The fetch ends, and is tried again."""

    async def main(_):
        bench = Bench()
        with bench.current.use(bench.connection):
            bench.connection.lose()
            with pytest.raises(TransportError, match="lost"):
                await bench.feed.follow(RELEASE)

    fake_time.run(main)
