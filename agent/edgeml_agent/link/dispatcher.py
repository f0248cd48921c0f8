"""Which part of the link handles a received message: the one that registered the nearest ancestor of its topic."""

from __future__ import annotations

from collections.abc import Callable

from edgeml_io.mqtt import Message

#: Handles one message; nothing in it is trusted.
Handler = Callable[[Message], None]


class Dispatcher:
    """Handlers by topic. A handler of `a/b` receives the messages on `a/b` and on all topics below it."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def set(self, topic: str, handler: Handler) -> None:
        """Register a handler in place of the topic's earlier one."""
        self._handlers[topic] = handler

    def remove(self, topic: str) -> None:
        """Remove the handler of a topic, if there is one."""
        self._handlers.pop(topic, None)

    def on_message(self, message: Message) -> None:
        """Pass a message to its handler; a message without one is dropped."""
        topic = message.topic
        while topic:
            if (handler := self._handlers.get(topic)) is not None:
                handler(message)
                return
            topic = topic.rpartition("/")[0]
