"""Waiting can always be cancelled, whatever comes at the same moment."""

import asyncio

import pytest
from aiomqtt import MqttError

from edgeml.fleet import link
from edgeml_agent.link import mqtt
from edgeml_io.aio import within


async def _cancelled_with_the_answer(wait):
    """Whether a task that waits ends as cancelled when that comes with its answer."""
    answer = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait(answer))
    await asyncio.sleep(0)
    answer.set_result("late")
    waiting.cancel()
    await asyncio.wait({waiting})
    return waiting.cancelled()


def test_a_cancellation_that_comes_with_the_answer_is_not_lost():
    """Else a loop that waits again and again would never end."""

    async def main():
        clients = [mqtt._Client("localhost"), link._Client("localhost")]
        waits = [lambda answer: within(answer, 10), lambda answer: within(answer, None)]
        waits += [lambda answer, it=it: it._wait_for(answer, None) for it in clients]
        return [await _cancelled_with_the_answer(wait) for wait in waits]

    assert asyncio.run(main()) == [True] * 4


def test_what_comes_in_time_is_the_result_and_what_does_not_is_an_error():
    """A client's is aiomqtt's own."""

    async def main():
        assert await within(asyncio.sleep(0, "here"), 10) == "here"
        with pytest.raises(TimeoutError):
            await within(asyncio.Event().wait(), 0.01)
        for client in (mqtt._Client("localhost"), link._Client("localhost")):
            with pytest.raises(MqttError, match="no answer in time"):
                await client._wait_for(asyncio.Event().wait(), 0.01)

    asyncio.run(main())
