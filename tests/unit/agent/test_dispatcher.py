"""Messages go to the handler of the nearest topic."""

import pytest

from edgeml_agent.link.dispatcher import Dispatcher
from edgeml_io.mqtt import Message


@pytest.mark.parametrize(
    ("topic", "handled"),
    [
        ("a/b", ["tree"]),
        ("a/b/c", ["leaf"]),
        ("a/b/c/d", ["leaf"]),
        ("a/b/x/y", ["tree"]),
        ("a/bc", []),
        ("a", []),
        ("b", []),
        ("", []),
    ],
)
def test_message_goes_to_the_nearest_handler(topic, handled):
    """Its own topic's, or else that of the closest topic above."""
    dispatcher, found = Dispatcher(), []
    dispatcher.set("a/b", lambda _: found.append("tree"))
    dispatcher.set("a/b/c", lambda _: found.append("leaf"))
    dispatcher.on_message(Message(topic, b""))
    assert found == handled


def test_removed_handler_receives_nothing():
    """Removing it twice does no harm."""
    dispatcher, found = Dispatcher(), []
    dispatcher.set("a", found.append)
    dispatcher.remove("a")
    dispatcher.remove("a")
    dispatcher.on_message(Message("a", b""))
    assert found == []
