"""Which topics a device listens to, and what comes of messages on them."""

import asyncio

import pytest

from edgeml_agent.link.chunk_topics import ARRIVALS_MAX, ChunkTopics
from edgeml_core import multi_chunk
from edgeml_core.messages import Topics

TOPICS = Topics("farm")
A, B, C = ("a" * 32, "b" * 32, "c" * 32)


@pytest.fixture
def topics():
    """Nothing wanted yet."""
    return ChunkTopics(TOPICS)


def arrived(topics):
    """All that has come, by key."""

    async def receive():
        found = []
        while arrival := await topics.receive(0.01):
            found.append((arrival.key, arrival.payload))
        return found

    return asyncio.run(receive())


def test_only_new_keys_are_subscribed(topics):
    """Asking again for one needs no subscription."""
    assert topics.want([A, B]) == [(TOPICS.chunk(A), 0), (TOPICS.chunk(B), 0)]
    assert topics.want([B, C]) == [(TOPICS.chunk(C), 0)]
    assert topics.subscriptions == [(TOPICS.chunk(key), 0) for key in (A, B, C)]


def test_what_is_wanted_arrives_and_the_rest_is_left(topics):
    """A topic that was dropped, or is left over from an earlier run, is named once to be left."""
    topics.want([A, B])
    assert topics.take(TOPICS.chunk(A), b"payload")
    topics.drop([B])
    assert topics.take(TOPICS.chunk(B), b"too late")
    assert topics.take(TOPICS.chunk(C), b"of an earlier run")
    assert arrived(topics) == [(A, b"payload")]
    assert topics.left() == [TOPICS.chunk(B), TOPICS.chunk(C)]
    assert topics.left() == []


def test_a_topic_that_is_wanted_again_is_not_left(topics):
    """Though it was dropped before."""
    topics.want([A])
    topics.drop([A])
    topics.want([A])
    assert topics.left() == []


def test_several_answers_come_on_the_topic_of_the_first(topics):
    """Those that are wanted, each as if it had come alone."""
    topics.want([A, B])
    topics.take(TOPICS.chunk(A), multi_chunk.join([(A, b"first"), (B, b"second"), (C, b"not wanted")]))
    assert sorted(arrived(topics)) == [(A, b"first"), (B, b"second")]


def test_a_broken_message_of_several_is_judged_like_any_payload(topics):
    """It arrives as what it claims to be, and its digest will refuse it."""
    topics.want([A])
    broken = multi_chunk.join([(A, b"first")])[:-1]
    topics.take(TOPICS.chunk(A), broken)
    assert arrived(topics) == [(A, broken)]


def test_other_topics_are_not_for_here(topics):
    """They are passed on."""
    assert not topics.take(TOPICS.trust("fleet", "metadata/timestamp.json"), b"")


def test_the_wave_of_one_release_is_followed(topics):
    """Its position is known until another one is followed; who follows none knows none."""
    topics.follow("1" * 32)
    topics.take(TOPICS.wave("1" * 32), A.encode())
    topics.take(TOPICS.wave("2" * 32), B.encode())
    assert topics.position == A
    assert topics.positioned.is_set()
    topics.follow("")
    assert topics.position == ""
    assert topics.left() == sorted([TOPICS.wave("1" * 32), TOPICS.wave("2" * 32)])


def test_arrivals_are_bounded(topics):
    """However much a rogue sends on a wanted topic."""
    topics.want([A])
    for _ in range(ARRIVALS_MAX + 10):
        topics.take(TOPICS.chunk(A), b"flood")
    assert len(arrived(topics)) == ARRIVALS_MAX
