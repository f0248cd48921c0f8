"""Which topics a device listens to, and what comes of messages on them."""

import asyncio

import pytest

from edgeml_agent.link.chunk_topics import ARRIVALS_MAX, ChunkTopics
from edgeml_core import multi_chunk
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Message

TOPICS = Topics("farm")
A, B, C = ("a" * 32, "b" * 32, "c" * 32)


@pytest.fixture
def topics():
    """Nothing wanted yet."""
    return ChunkTopics(TOPICS)


def receive(topics, topic, payload):
    """Let a message come."""
    topics.on_message(Message(topic, payload))


def arrived(topics):
    """All that has come, by key."""

    async def receive():
        found = []
        while arrival := await topics.receive(0.01):
            found.append((arrival.key, arrival.payload))
        return found

    return asyncio.run(receive())


def test_want_of_known_keys_makes_no_subscription(topics):
    """Asking again for one needs no subscription."""
    assert topics.want([A, B]) == [(TOPICS.chunk(A), 0), (TOPICS.chunk(B), 0)]
    assert topics.want([B, C]) == [(TOPICS.chunk(C), 0)]
    assert topics.subscriptions == [(TOPICS.chunk(key), 0) for key in (A, B, C)]


def test_on_message_queues_wanted_chunks_and_unsubscribes_the_rest(topics):
    """A topic that was dropped, or is left over from an earlier run, is named once to be left."""
    topics.want([A, B])
    receive(topics, TOPICS.chunk(A), b"payload")
    topics.drop([B])
    receive(topics, TOPICS.chunk(B), b"too late")
    receive(topics, TOPICS.chunk(C), b"of an earlier run")
    assert arrived(topics) == [(A, b"payload")]
    assert topics.take_unsubscribed() == [TOPICS.chunk(B), TOPICS.chunk(C)]
    assert topics.take_unsubscribed() == []


def test_want_after_drop_keeps_the_subscription(topics):
    """Though it was dropped before."""
    topics.want([A])
    topics.drop([A])
    topics.want([A])
    assert topics.take_unsubscribed() == []


def test_on_message_with_several_chunks_queues_the_wanted_ones(topics):
    """Those that are wanted, each as if it had come alone."""
    topics.want([A, B])
    receive(topics, TOPICS.chunk(A), multi_chunk.join([(A, b"first"), (B, b"second"), (C, b"not wanted")]))
    assert sorted(arrived(topics)) == [(A, b"first"), (B, b"second")]


def test_on_message_with_a_broken_container_queues_it_as_a_chunk(topics):
    """It arrives as what it claims to be, and its digest will refuse it."""
    topics.want([A])
    broken = multi_chunk.join([(A, b"first")])[:-1]
    receive(topics, TOPICS.chunk(A), broken)
    assert arrived(topics) == [(A, broken)]


def test_follow_knows_the_position_of_one_release(topics):
    """Its position is known until another release is followed, or none."""
    topics.follow("1" * 32)
    receive(topics, TOPICS.wave("1" * 32), A.encode())
    receive(topics, TOPICS.wave("2" * 32), B.encode())
    assert topics.position == A
    assert topics.position_known.is_set()
    topics.follow("")
    assert topics.position == ""
    assert topics.take_unsubscribed() == sorted([TOPICS.wave("1" * 32), TOPICS.wave("2" * 32)])


def test_on_message_beyond_the_bound_drops_the_newest(topics):
    """However much a rogue sends on a wanted topic."""
    topics.want([A])
    for _ in range(ARRIVALS_MAX + 10):
        receive(topics, TOPICS.chunk(A), b"flood")
    assert len(arrived(topics)) == ARRIVALS_MAX
