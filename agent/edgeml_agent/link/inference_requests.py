"""Requests to this device's models as MQTT messages, and their answers; `edgeml_agent.mqtt_api` reads and answers them.

With MQTT 5 the response topic, the correlation data and the expiry are properties of the message. A client of 3.1.1
writes them into its payload, which the API reads. All messages have QoS 0: a client that gets no answer in time asks
again. So the broker queues nothing for a device that is away.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final

import msgspec

from edgeml_agent.link.current import CurrentConnection
from edgeml_core import names
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Connection, Message, MqttError

#: Bytes of one request; a photograph of 700 kB fits in base64.
REQUEST_MAX_BYTES: Final = 1024**2
#: Characters of a client's name.
CLIENT_MAX_CHARS: Final = 128
#: Requests that the API hasn't read yet; the newest of more are dropped, as any message of QoS 0 may be.
QUEUED_MAX: Final = 256
#: Bytes of their payloads: sixteen of the longest.
QUEUED_MAX_BYTES: Final = 16 * 1024**2
#: The most of a bound that one client's requests may take, as a fraction: one that exceeds it loses its own.
CLIENT_MAX_FRACTION: Final = 0.75


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request; nothing in it is trusted.

    `client` is the last level of the topic, which the broker's rights bind to the user. `payload` is None when it was
    longer than `REQUEST_MAX_BYTES`. `arrived_s` is on the clock `time.monotonic`; `expires_s` is in seconds after it.
    """

    model: str
    client: str
    payload: bytes | None
    arrived_s: float
    expires_s: int | None = None
    reply_to: str | None = None
    correlation: bytes | None = None


class InferenceRequests:
    """The queue of requests to one device. It subscribes to nothing until it is opened."""

    def __init__(self, topics: Topics, device: str, current: CurrentConnection) -> None:
        self.topics = topics
        self.device = device
        self._current = current
        self._is_open = False
        self._root = topics.infer(device, "", "").rstrip("/")
        self._requests: asyncio.Queue[InferenceRequest] = asyncio.Queue(QUEUED_MAX)
        #: The queued requests of each client, and the bytes of their payloads.
        self._queued: Counter[str] = Counter()
        self._queued_bytes: Counter[str] = Counter()

    def open(self) -> InferenceRequests:
        """Receive requests from the next connection on."""
        self._is_open = True
        return self

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """The topics that a connection subscribes to, with their QoS."""
        return [(self.topics.infer(self.device, "+", "+"), 0)] if self._is_open else []

    def on_message(self, message: Message) -> None:
        """Queue a request. A retained one is dropped: its client has stopped waiting."""
        match message.topic.removeprefix(f"{self._root}/").split("/"):
            case [model, client] if names.is_name(model) and _is_client(client):
                if self._is_open and not message.retain:
                    self._queue(_request(model, client, message))

    @property
    def connection(self) -> Connection | None:
        """The present connection; another object after each reconnection."""
        return self._current.get_now()

    async def next(self) -> InferenceRequest:
        """Wait for the next request."""
        request = await self._requests.get()
        self._queued[request.client] -= 1
        self._queued_bytes[request.client] -= len(request.payload or b"")
        if not self._queued[request.client]:
            del self._queued[request.client], self._queued_bytes[request.client]
        return request

    async def publish(
        self, topic: str, payload: bytes, *, correlation: bytes | None = None, retain: bool = False
    ) -> bool:
        """Publish an answer, with QoS 1 when the broker shall retain it.

        Returns:
            False when the message is lost: there is no connection, or the broker doesn't take one of that length.
        """
        connection = self._current.get_now()
        if connection is None:
            return False
        try:
            return await connection.publish(topic, payload, qos=int(retain), retain=retain, correlation=correlation)
        except MqttError:
            return False

    def _queue(self, request: InferenceRequest) -> None:
        client, queued, queued_bytes = request.client, self._queued, self._queued_bytes
        is_full = self._requests.full() or queued_bytes.total() >= QUEUED_MAX_BYTES
        own = max(queued[client] / QUEUED_MAX, queued_bytes[client] / QUEUED_MAX_BYTES)
        if not is_full and own < CLIENT_MAX_FRACTION:
            queued[client] += 1
            queued_bytes[client] += len(request.payload or b"")
            self._requests.put_nowait(request)


def _is_client(name: str) -> bool:
    """Return whether a level of a topic can stand in the topic of an answer."""
    return 0 < len(name) <= CLIENT_MAX_CHARS and name.isprintable() and not {"+", "#"} & {*name}


def _request(model: str, client: str, message: Message) -> InferenceRequest:
    return InferenceRequest(
        model=model,
        client=client,
        payload=message.payload if len(message.payload) <= REQUEST_MAX_BYTES else None,
        arrived_s=time.monotonic(),
        expires_s=message.expires_s,
        reply_to=message.reply_to,
        correlation=message.correlation,
    )
