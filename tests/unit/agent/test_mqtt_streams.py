"""Messages of a generated text over MQTT: which tokens share one, by a clock of the test's own."""

import asyncio
import contextlib

import pytest

from edgeml_agent.mqtt_api import streams
from edgeml_agent.mqtt_api.streams import JOINED_MAX_TOKENS, JOINED_S, Stream
from edgeml_core.errors import DeviceError
from edgeml_runtime.tasks import TokenDelta


class Clock:
    """Time that passes where a test lets it."""

    def __init__(self):
        self.now_s = 1000.0

    def monotonic(self):
        """See `time.monotonic`."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    """The clock of streams."""
    made = Clock()
    monkeypatch.setattr(streams, "time", made)
    return made


def published(clock, tokens, *, takes_s=0.0, lost_from=None, error=None):
    """The messages for tokens, (seconds before it, its text) each, and how many tokens were taken from the model."""
    messages, taken = [], []

    async def pieces():
        for number, (after_s, text) in enumerate(tokens, start=1):
            clock.now_s += after_s
            taken.append(text)
            finish = "stop" if number == len(tokens) and not error else None
            yield "1.0", TokenDelta(text=text, prompt_tokens=3, tokens=number, finish=finish)
        if error:
            raise error

    async def publish(message):
        messages.append(message)
        clock.now_s += takes_s
        return lost_from is None or len(messages) <= lost_from

    asyncio.run(Stream("nurse", publish).run(pieces(), contextlib.nullcontext()))
    return messages, len(taken)


def test_tokens_of_a_moment_share_a_message(clock):
    """The first comes at once; the others join until the time is over, and the last message has what is left."""
    messages, _ = published(clock, [(JOINED_S / 4, text) for text in "abcdefghij"])
    assert [it["text"] for it in messages] == ["a", "bcde", "fghi", "j"]
    assert [it["seq"] for it in messages] == [0, 1, 2, 3]
    end = {
        "seq": 3,
        "text": "j",
        "finish": "stop",
        "model": "nurse",
        "version": "1.0",
        "prompt_tokens": 3,
        "tokens": 10,
    }
    assert messages[-1] == end
    assert all(it.keys() == {"seq", "text"} for it in messages[:-1])


def test_slow_tokens_have_a_message_each_and_those_without_text_none(clock):
    """A character of several tokens is sent when it is whole."""
    messages, _ = published(clock, [(1, "a"), (1, ""), (1, ""), (1, "\N{PILE OF POO}"), (1, "")])
    assert [it["text"] for it in messages] == ["a", "\N{PILE OF POO}", ""]


def test_tokens_that_a_slow_link_made_wait_share_a_message(clock):
    """The model is faster than the link: no message for each token, and none of too many."""
    messages, _ = published(clock, [(0, "a")] * (1 + JOINED_MAX_TOKENS + 5), takes_s=10 * JOINED_S)
    assert [len(it["text"]) for it in messages] == [1, JOINED_MAX_TOKENS, 5]


def test_a_lost_message_ends_the_stream(clock):
    """No further token is taken. Its client learns why, unless the connection is lost."""
    messages, taken = published(clock, [(1, "a")] * 9, lost_from=2)
    assert (len(messages), taken) == (4, 3)
    assert messages[-1]["error"]["code"] == "answer-too-large"


def test_an_error_is_in_the_last_message_with_the_counts(clock):
    """And so is the text before it."""
    error = DeviceError("runtime-failed", "no", "hint")
    messages, _ = published(clock, [(1, "a"), (0, "b")], error=error)
    end = {"seq": 1, "text": "b", "error": error.to_dict(), "version": "1.0", "prompt_tokens": 3, "tokens": 2}
    assert messages == [{"seq": 0, "text": "a"}, end]
