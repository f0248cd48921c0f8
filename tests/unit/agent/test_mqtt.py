"""The inbox of a connection."""

import asyncio

import pytest
from aiomqtt import Message

from edgeml_agent.link import mqtt


def message(size_bytes):
    """One that came."""
    return Message("t", bytes(size_bytes), qos=0, retain=False, mid=1, properties=None)


def test_an_inbox_is_bounded_by_bytes_and_number(monkeypatch):
    """What is looked at makes room again; short messages are bounded by their number."""
    monkeypatch.setattr(mqtt, "INBOX_MAX_BYTES", 1000)
    inbox = mqtt.Inbox(3)
    inbox.put_nowait(message(999))
    inbox.put_nowait(message(1))
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait(message(1))
    assert len(inbox.get_nowait().payload) == 999
    inbox.put_nowait(message(0))
    inbox.put_nowait(message(0))
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait(message(0))
