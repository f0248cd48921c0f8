"""Calls in the order of their arrival, bounded."""

import asyncio

from edgeml_agent.link.calls import CALLS_QUEUED_MAX, CallQueue
from edgeml_io.mqtt import Message


def test_calls_come_in_order_and_the_newest_of_too_many_are_dropped():
    """A retained one counts for nothing."""

    async def main():
        calls = CallQueue()
        calls.on_message(Message("t", b"old", retain=True))
        for number in range(CALLS_QUEUED_MAX + 3):
            calls.on_message(Message("t", b"%d" % number))
        found = [await calls.next() for _ in range(CALLS_QUEUED_MAX)]
        waiting = asyncio.create_task(calls.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        return found

    assert asyncio.run(main()) == [b"%d" % number for number in range(CALLS_QUEUED_MAX)]
