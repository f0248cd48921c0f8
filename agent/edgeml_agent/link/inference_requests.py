"""Requests to this device's models as MQTT messages, and the answers: what `link` passes on to the door and back.

By MQTT 5 the response topic, the correlation data and the message's expiry are those of the protocol; what a client of
3.1.1 writes into its payload instead, the door reads. All is QoS 0: who asks wants to know now, and asks again when
nothing came. So nothing piles up for a device that is away.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
from aiomqtt import Client, Message, MqttError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeml_core import names
from edgeml_core.messages import Topics

#: Of one request; a photograph of 700 kB in base64 fits.
REQUEST_MAX_BYTES: Final = 1024**2
#: Requests that the door hasn't looked at yet; the newest of too many are lost, as everything of QoS 0 may be.
QUEUED_MAX: Final = 256
QUEUED_MAX_BYTES: Final = 16 * 1024**2


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request; nothing about it is trusted yet.

    `payload` is None when it was too long. `came_s` is on the clock `time.monotonic`; `expires_s` counts from then.
    """

    model: str
    payload: bytes | None
    came_s: float
    expires_s: int | None = None
    reply_to: str | None = None
    correlation: bytes | None = None


class RequestLine:
    """The topics of one device's models. Nothing is heard before it is opened."""

    def __init__(self, topics: Topics, device: str) -> None:
        self.topics = topics
        self.device = device
        #: The connection, while there is one.
        self.client: Client | None = None
        self._is_open = False
        self._root = topics.infer(device, "")
        self._asked: asyncio.Queue[Asked] = asyncio.Queue(QUEUED_MAX)
        self._queued_bytes = 0

    def open(self) -> RequestLine:
        """Hear requests from the next connection on."""
        self._is_open = True
        return self

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """What a connection subscribes to for it."""
        return [(self.topics.infer(self.device, "+"), 0)] if self._is_open else []

    def take(self, message: Message) -> bool:
        """Take a message in, if it is a request. A retained one was for somebody who has gone."""
        topic, payload = str(message.topic), message.payload
        if not topic.startswith(self._root):
            return False
        model = topic.removeprefix(self._root)
        if self._is_open and isinstance(payload, bytes) and names.is_name(model) and not message.retain:
            self._queue(_asked(model, payload, message.properties))
        return True

    async def asked(self) -> Asked:
        """The next request."""
        asked = await self._asked.get()
        self._queued_bytes -= len(asked.payload or b"")
        return asked

    def _queue(self, asked: Asked) -> None:
        if not self._asked.full() and self._queued_bytes < QUEUED_MAX_BYTES:
            self._queued_bytes += len(asked.payload or b"")
            self._asked.put_nowait(asked)

    async def say(self, topic: str, payload: bytes, *, correlation: bytes | None = None, retain: bool = False) -> bool:
        """Publish something now; whether there was a connection to do so."""
        if self.client is None:
            return False
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho has no annotation here
            properties.CorrelationData = correlation
        try:
            await self.client.publish(topic, payload, qos=int(retain), retain=retain, properties=properties)
        except MqttError:
            return False
        return True


def _asked(model: str, payload: bytes, properties: Properties | None) -> Asked:
    return Asked(
        model=model,
        payload=payload if len(payload) <= REQUEST_MAX_BYTES else None,
        came_s=time.monotonic(),
        expires_s=getattr(properties, "MessageExpiryInterval", None),
        reply_to=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
    )
