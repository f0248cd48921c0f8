"""Requests to this device's models as MQTT messages, and their answers; `edgeml_agent.mqtt_api` reads and answers them.

With MQTT 5 the response topic, the correlation data and the expiry are properties of the message. A client of 3.1.1
writes them into its payload, which the API reads. All messages have QoS 0: a client that gets no answer in time asks
again. So the broker queues nothing for a device that is away.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from edgeml_agent.link.current import CurrentConnection
from edgeml_core import names
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Connection, Message, MqttError

#: Bytes of one request; a photograph of 700 kB fits in base64.
REQUEST_MAX_BYTES: Final = 1024**2
#: Requests that the API hasn't read yet; the newest of more are dropped, as any message of QoS 0 may be.
QUEUED_MAX: Final = 256
#: Bytes of their payloads: sixteen of the longest.
QUEUED_MAX_BYTES: Final = 16 * 1024**2


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request; nothing in it is trusted.

    `payload` is None when it was longer than `REQUEST_MAX_BYTES`. `arrived_s` is on the clock `time.monotonic`;
    `expires_s` is in seconds after it.
    """

    model: str
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
        self._root = topics.infer(device, "")
        self._requests: asyncio.Queue[InferenceRequest] = asyncio.Queue(QUEUED_MAX)
        self._queued_bytes = 0

    def open(self) -> InferenceRequests:
        """Receive requests from the next connection on."""
        self._is_open = True
        return self

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """The topics that a connection subscribes to, with their QoS."""
        return [(self.topics.infer(self.device, "+"), 0)] if self._is_open else []

    def on_message(self, message: Message) -> None:
        """Queue a request. A retained one is dropped: its client has stopped waiting."""
        model = message.topic.removeprefix(self._root)
        if self._is_open and names.is_name(model) and not message.retain:
            self._queue(_request(model, message))

    @property
    def connection(self) -> Connection | None:
        """The present connection; another object after each reconnection."""
        return self._current.get_now()

    async def next(self) -> InferenceRequest:
        """Wait for the next request."""
        request = await self._requests.get()
        self._queued_bytes -= len(request.payload or b"")
        return request

    async def publish(
        self, topic: str, payload: bytes, *, correlation: bytes | None = None, retain: bool = False
    ) -> bool:
        """Publish an answer, with QoS 1 when the broker shall retain it.

        Returns:
            False when there is no connection; then the message is lost.
        """
        connection = self._current.get_now()
        if connection is None:
            return False
        try:
            await connection.publish(topic, payload, qos=int(retain), retain=retain, correlation=correlation)
        except MqttError:
            return False
        return True

    def _queue(self, request: InferenceRequest) -> None:
        if not self._requests.full() and self._queued_bytes < QUEUED_MAX_BYTES:
            self._queued_bytes += len(request.payload or b"")
            self._requests.put_nowait(request)


def _request(model: str, message: Message) -> InferenceRequest:
    return InferenceRequest(
        model=model,
        payload=message.payload if len(message.payload) <= REQUEST_MAX_BYTES else None,
        arrived_s=time.monotonic(),
        expires_s=message.expires_s,
        reply_to=message.reply_to,
        correlation=message.correlation,
    )
