"""The messages that this device publishes: its retained state and will, and the outboxes of reports and replies.

The state is published when it has changed, and at each new connection. Each outbox is published in order, see `outbox`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec

from edgeml_agent import log
from edgeml_agent.link.outbox import Forwarded, Outbox, Outgoing
from edgeml_core import messages
from edgeml_core.calls import Reply
from edgeml_core.errors import TransportError
from edgeml_core.messages import DeviceState, Report, Topics
from edgeml_io.mqtt import Connection, MqttError, Will

#: Seconds for the last state at the end: an agent that is stopped must not wait for a broker that is away.
GOODBYE_S: Final = 3.0


class StatusPublisher:
    """The state and the outboxes of one device. `session` is the number of the current connection."""

    def __init__(self, topics: Topics, device: str) -> None:
        self.session = 0
        self._state_topic = topics.state(device)
        self._report_topic = topics.report(device)
        self._reply_topic = topics.reply(device)
        self._state = DeviceState(online=True, session=0)
        self._state_changed = asyncio.Event()
        self._outbox = Outbox()
        #: Replies to calls, and messages of a topic handler: they displace no report of the device's own.
        self._replies, self._forwarded = Outbox(), Outbox()

    def publish_state(self, state: DeviceState) -> None:
        """See `StatusSink.publish_state`."""
        if state != self._state:
            self._state = state
            self._state_changed.set()

    def report(self, report: Report) -> None:
        """See `StatusSink.report`."""
        self._outbox.add(report)

    def reply(self, reply: Reply) -> None:
        """Publish a reply to a call, in its turn among the replies."""
        self._replies.add(reply)

    def forward(self, topic: str, payload: bytes) -> None:
        """Publish a message of a topic handler, in its turn among such messages."""
        self._forwarded.add(Forwarded(topic, payload))

    async def all_forwarded(self) -> None:
        """Wait until the broker has acknowledged every message of `forward`."""
        await self._forwarded.is_emptied()

    @property
    def will(self) -> Will:
        """The will of a connection: the present state as offline."""
        return Will(self._state_topic, self._payload(online=False))

    async def run(self, connection: Connection) -> None:
        """Publish the state, then each new state and the outbox, until cancelled.

        Raises:
            MqttError: the connection is lost.
        """
        self._state_changed.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_states(connection))
            for outbox in (self._outbox, self._replies, self._forwarded):
                tasks.create_task(self._publish_outbox(connection, outbox))

    async def publish_offline(self, connection: Connection) -> None:
        """Publish the state as offline, if the broker takes it within `GOODBYE_S`."""
        with contextlib.suppress(MqttError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._publish_state(connection, online=False)

    async def _publish_states(self, connection: Connection) -> None:
        while True:
            await self._state_changed.wait()
            self._state_changed.clear()
            await self._publish_state(connection, online=True)

    async def _publish_outbox(self, connection: Connection, outbox: Outbox) -> None:
        while True:
            message = await outbox.oldest()
            topic, payload = self._addressed(message)
            if not await connection.publish(topic, payload, qos=1):
                _log_too_long(topic, payload)
            outbox.remove(message)

    async def _publish_state(self, connection: Connection, *, online: bool) -> None:
        payload = self._payload(online=online)
        if not await connection.publish(self._state_topic, payload, qos=1, retain=True):
            _log_too_long(self._state_topic, payload)

    def _payload(self, *, online: bool) -> bytes:
        return messages.encode(msgspec.structs.replace(self._state, online=online, session=self.session))

    def _addressed(self, message: Outgoing) -> tuple[str, bytes]:
        match message:
            case Forwarded(topic, payload):
                return topic, payload
            case Report():
                return self._report_topic, messages.encode(msgspec.structs.replace(message, session=self.session))
            case _:
                return self._reply_topic, messages.encode(message)


def _log_too_long(topic: str, payload: bytes) -> None:
    message = f"a message on {topic} has {len(payload)} bytes, more than the broker takes"
    log.failure("message dropped", TransportError("packet-too-long", message, "raise the broker's max_packet_size"))
