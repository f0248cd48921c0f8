"""The outbox: a message leaves it after its acknowledgement."""

import asyncio

from edgeml_agent.link import outbox
from edgeml_agent.link.outbox import Forwarded, Outbox


def message(number):
    """A message."""
    return Forwarded("topic", b"%d" % number)


def test_oldest_stays_until_it_is_removed():
    """A connection that ends before the PUBACK takes nothing."""

    async def main():
        box = Outbox()
        box.add(message(1))
        box.add(message(2))
        assert await box.oldest() == await box.oldest() == message(1)
        box.remove(await box.oldest())
        assert await box.oldest() == message(2)

    asyncio.run(main())


def test_oldest_of_an_empty_outbox_waits_for_a_message():
    """Also a second time."""

    async def main():
        box = Outbox()
        for number in range(2):
            waiting = asyncio.create_task(box.oldest())
            await asyncio.sleep(0)
            assert not waiting.done()
            box.add(message(number))
            box.remove(await waiting)

    asyncio.run(main())


def test_add_beyond_the_bound_drops_the_oldest(monkeypatch):
    """Also while that is being published: its acknowledgement then removes no other message."""
    monkeypatch.setattr(outbox, "OUTBOX_MAX_MESSAGES", 2)

    async def main():
        box = Outbox()
        box.add(message(1))
        in_flight = await box.oldest()
        box.add(message(2))
        box.add(message(3))
        box.remove(in_flight)
        assert await box.oldest() == message(2)

    asyncio.run(main())
