"""Topics that another part of the agent handles on the device's connection: a relay, for the devices of its site."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from edgeml_agent.link.dispatcher import Dispatcher
from edgeml_agent.ports import TopicHandler
from edgeml_io.mqtt import Connection, Message


class HandlerTopics:
    """The topics of one handler, subscribed with QoS 1 on each connection."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._handler: TopicHandler | None = None
        self._topics: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def set_handler(self, handler: TopicHandler) -> None:
        """Pass messages on the topics to `handler` from now on."""
        self._handler = handler

    def set_topics(self, topics: Collection[str]) -> None:
        """Subscribe to these topics, and unsubscribe from the earlier ones."""
        for topic in self._topics.difference(topics):
            self._dispatcher.remove(topic)
        for topic in topics:
            self._dispatcher.set(topic, self._on_message)
        self._topics = frozenset(topics)
        self._changed.set()

    async def run(self, connection: Connection) -> None:
        """Keep the subscriptions of a new connection as the topics are, until cancelled.

        Raises:
            MqttError: the connection is lost.
        """
        if self._handler is not None:
            self._handler.connected()
        subscribed: frozenset[str] = frozenset()
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            before, subscribed = subscribed, self._topics
            if new := sorted(subscribed - before):
                await connection.subscribe([(topic, 1) for topic in new])
            if old := sorted(before - subscribed):
                await connection.unsubscribe(old)

    def _on_message(self, message: Message) -> None:
        if self._handler is not None:
            self._handler.on_message(message.topic, message.payload)
