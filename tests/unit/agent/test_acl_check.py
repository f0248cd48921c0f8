"""The check of a device's rights, on a broker in memory that echoes some topics only."""

import asyncio

import pytest

from edgeml_agent.link.acl_check import AclCheck
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io import echo_check
from edgeml_io.mqtt import Message
from support import fake_time
from support.memory_connection import MemoryConnection

TOPICS = Topics("farm")


async def checked(check, forbidden=()):
    """Run the check on a broker that echoes all topics but some."""
    connection = MemoryConnection()

    async def echo():
        done = 0
        while True:
            for topic, payload in connection.published[done:]:
                if topic not in forbidden:
                    check.on_echo(Message(topic, payload))
            done = len(connection.published)
            await asyncio.sleep(0.01)

    echoing = asyncio.create_task(echo())
    try:
        await check.run(connection)
    finally:
        echoing.cancel()
    return connection


def test_run_with_all_rights_leaves_no_subscription():
    """The check of each connection costs the broker nothing afterwards."""
    connection = fake_time.run(lambda _: checked(AclCheck(TOPICS, "pi")))
    assert connection.subscribed == {}
    assert all(payload == b"" for _, payload in connection.published)


def test_run_without_a_right_names_the_topic_in_time():
    """Brokers confirm a forbidden SUBSCRIBE, and stay silent."""

    async def main(clock):
        began_s = clock.now_s
        with pytest.raises(TransportError) as caught:
            await checked(AclCheck(TOPICS, "pi"), {TOPICS.report("pi")})
        assert clock.now_s - began_s == pytest.approx(echo_check.ECHO_WAIT_S, abs=0.1)
        return caught.value

    error = fake_time.run(main)
    assert error.code == "topic-forbidden"
    assert error.message.endswith(f" on {TOPICS.report('pi')}")


def test_rights_to_requests_are_needed_by_devices_that_answer_them():
    """Others need none."""
    for requests in (False, True):
        check = AclCheck(TOPICS, "pi", requests=requests)
        assert check.is_echo(Message(TOPICS.infer("pi", "echo"), b"")) is requests


@pytest.mark.parametrize(
    ("topic", "payload"), [(TOPICS.report("pi"), b"x"), (TOPICS.report("other"), b""), (TOPICS.call("pi"), b"")]
)
def test_other_messages_are_no_echoes(topic, payload):
    """They belong to the other parts."""
    assert not AclCheck(TOPICS, "pi").is_echo(Message(topic, payload))
