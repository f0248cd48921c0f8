"""The states of devices behind relays that wait for the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from edgeml.fleet.relayed_states import RelayedStates
from edgeml_core import messages
from edgeml_core.messages import DeviceState, Topics
from edgeml_io.mqtt import MqttError
from support.waiting import until_async

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def state(session: int) -> DeviceState:
    """A device's state."""
    return DeviceState(online=True, session=session)


class FakeConnection:
    """Notes the device and session of each state; `on_publish` runs before a publication ends."""

    def __init__(self, on_publish: Callable[[str, DeviceState], Awaitable[None]]) -> None:
        self.sent: list[tuple[str, int]] = []
        self.on_publish = on_publish

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """See `Connection.publish`."""
        assert (qos, retain) == (1, True)
        device, sent = topic.split("/")[-2], messages.decode(payload, DeviceState)
        await self.on_publish(device, sent)
        self.sent.append((device, sent.session))


@asynccontextmanager
async def publishing(waiting: RelayedStates, connection: FakeConnection) -> AsyncIterator[None]:
    """Publish in a task."""
    task = asyncio.create_task(waiting.publish(connection, Topics("farm")))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_the_newest_state_of_each_device_waits() -> None:
    """While the broker is slow. A device that sends on and on holds up no other one's."""
    waiting, slow = RelayedStates(), asyncio.Event()

    async def send_more(device: str, sent: DeviceState) -> None:
        if device == "a":
            waiting.put("a", state(sent.session + 1))
            await slow.wait()
            await asyncio.sleep(0)

    connection = FakeConnection(send_more)
    async with publishing(waiting, connection):
        waiting.put("a", state(0))
        await asyncio.sleep(0.01)
        for session in (1, 2, 3):
            waiting.put("a", state(session))
        waiting.put("b", state(7))
        slow.set()
        await until_async(lambda: len(connection.sent) > 3)
    assert connection.sent[:4] == [("a", 0), ("a", 3), ("b", 7), ("a", 4)]


async def test_a_state_outlives_its_connection() -> None:
    """It is sent over the next one, unless a newer state waits by then; another leader sends its own."""
    waiting = RelayedStates()

    async def lose(device: str, lost: DeviceState) -> None:
        if lost.session == 2:
            waiting.put(device, state(3))
        raise MqttError("the connection was lost")

    async def take(_: str, __: DeviceState) -> None:
        await asyncio.sleep(0)

    connection = FakeConnection(take)
    for session in (1, 2):
        waiting.put(f"d-{session}", state(session))
        with pytest.raises(MqttError):
            await waiting.publish(FakeConnection(lose), Topics("farm"))
        async with publishing(waiting, connection):
            await until_async(lambda count=session: len(connection.sent) == count)
    waiting.put("d-1", state(4))
    waiting.clear()
    async with publishing(waiting, connection):
        await asyncio.sleep(0.01)
    assert connection.sent == [("d-1", 1), ("d-2", 3)]
