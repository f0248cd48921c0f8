"""The current connection: waited for in bounded time, and gone at its end."""

import asyncio

import pytest

from edgeml_agent.link import current
from edgeml_agent.link.current import CurrentConnection
from edgeml_core.errors import TransportError
from edgeml_io.mqtt import MisbehavingError, MqttError, RefusedError
from support import fake_time
from support.memory_connection import URL, MemoryConnection


def test_get_waits_for_a_connection():
    """As long as it may come."""

    async def main(clock):
        connections, connection = CurrentConnection(URL), MemoryConnection()
        waiting = asyncio.create_task(connections.get())
        await asyncio.sleep(current.CONNECT_WAIT_S - 1)
        assert not waiting.done()
        with connections.use(connection):
            assert await waiting is connection
            assert connections.is_online
            assert connections.get_now() is connection
        assert not connections.is_online
        assert connections.get_now() is None

    fake_time.run(main)


def test_get_without_a_connection_fails_in_time():
    """With the broker's address."""

    async def main(clock):
        began_s = clock.now_s
        with pytest.raises(TransportError, match=r"broker\.example") as caught:
            await CurrentConnection(URL).get()
        assert clock.now_s - began_s == pytest.approx(current.CONNECT_WAIT_S)
        return caught.value.code

    assert fake_time.run(main) == "broker-unreachable"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MqttError("gone"), "broker-unreachable"),
        (MisbehavingError("odd"), "broker-misbehaves"),
        (RefusedError("no"), "broker-refused"),
    ],
)
def test_errors_of_the_adapter_become_errors_of_the_agent(error, code):
    """With the cause, and a hint."""
    with pytest.raises(TransportError, match=str(error)) as caught, CurrentConnection(URL).translated():
        raise error
    assert caught.value.code == code
    assert caught.value.hint
