"""The topics of another part: subscribed as they change, and again on each connection."""

import asyncio

from edgeml_agent.link.dispatcher import Dispatcher
from edgeml_agent.link.handler_topics import HandlerTopics
from edgeml_io.mqtt import Message
from support import fake_time
from support.memory_connection import MemoryConnection


class Handler:
    """Notes all that it gets."""

    def __init__(self):
        self.connections, self.messages = 0, []

    def connected(self):
        """Count it."""
        self.connections += 1

    def on_message(self, topic, payload):
        """Note it."""
        self.messages.append((topic, payload))


async def settled():
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_topics_are_subscribed_as_they_change_and_again_on_each_connection():
    """With QoS 1; messages on them come to the handler, and on removed ones no longer."""

    async def main(_):
        dispatcher, handler = Dispatcher(), Handler()
        topics = HandlerTopics(dispatcher)
        topics.set_handler(handler)
        topics.set_topics(["a", "b"])
        first, second = MemoryConnection(), MemoryConnection()
        running = asyncio.create_task(topics.run(first))
        await settled()
        assert first.subscribed == {"a": 1, "b": 1}
        topics.set_topics(["b", "c"])
        await settled()
        running.cancel()
        for topic in "abc":
            dispatcher.on_message(Message(topic, topic.encode()))
        running = asyncio.create_task(topics.run(second))
        await settled()
        running.cancel()
        return handler, first, second

    handler, first, second = fake_time.run(main)
    assert first.events == [("subscribe", ["a", "b"]), ("subscribe", ["c"]), ("unsubscribe", ["a"])]
    assert second.events == [("subscribe", ["b", "c"])]
    assert handler.messages == [("b", b"b"), ("c", b"c")]
    assert handler.connections == 2


def test_without_a_handler_nothing_is_subscribed():
    """Most devices are no relay."""

    async def main(_):
        topics, connection = HandlerTopics(Dispatcher()), MemoryConnection()
        running = asyncio.create_task(topics.run(connection))
        await settled()
        running.cancel()
        return connection.events

    assert fake_time.run(main) == []
