"""The device's link to its fleet: one connection to the broker, opened again whenever it is lost.

Theory. A device has one connection with one persistent session: a broker that takes the client id from the user name,
as it should, closes the first of two. Everything that must survive a lost connection therefore lives outside of it, in
one of the parts below. A part owns its topics, its bounds and its state. It learns of a new connection from `restart`
or `run`, and of a message from its handler in the `Dispatcher`. `run` raises `MqttError` when the connection is lost,
which cancels the others; the link waits with a growing delay, and connects again. A part never waits for another part,
so a slow acknowledgement of a report delays no chunk.

- `StatusPublisher`: state, will, and the outbox, from which a message is removed after its PUBACK.
- `ChunkFeed`: chunks with QoS 0, requested again on each connection.
- `SignedFiles`: retained metadata, received again on each connection.
- `CallQueue`, `InferenceRequests` and `HandlerTopics`: messages for other rooms of the agent.
- `CertificateRenewal`: the next connection's certificate.
- `AclCheck`: each connection begins with a check of the device's rights.

Queues are bounded, and nothing received is trusted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from edgeml_agent import log
from edgeml_agent.link.acl_check import AclCheck
from edgeml_agent.link.calls import CallQueue
from edgeml_agent.link.chunk_feed import ChunkFeed
from edgeml_agent.link.current import CurrentConnection
from edgeml_agent.link.dispatcher import Dispatcher
from edgeml_agent.link.handler_topics import HandlerTopics
from edgeml_agent.link.inference_requests import InferenceRequests
from edgeml_agent.link.link_state import LinkState, failed
from edgeml_agent.link.session import session
from edgeml_agent.link.signed_files import SignedFiles
from edgeml_agent.link.status import StatusPublisher
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import trust
from edgeml_core.calls import Reply
from edgeml_core.errors import DeviceError, EdgemlError, TransportError, UsageError
from edgeml_core.messages import DeviceState, Report, Topics
from edgeml_io import aio, backoff
from edgeml_io.mqtt import Connection, Message, MqttError

#: Seconds between connections at first: a broker that restarts is back soon.
RECONNECT_FIRST_S: Final = 1.0
#: The longest time between them, in seconds: a fleet of thousands must not load a broker that is down.
RECONNECT_MAX_S: Final = 120.0


class MqttLink:
    """The link of one device.

    Args:
        broker: the broker's address and TLS files.
        device: the device's id and fleet.
        next_session: returns the number of a new connection, and remembers it across restarts.
        late_floor: see `edgeml_agent.link.session`.
        on_state: called in a thread with each state of the connection; its `DeviceError` is logged.
        max_bytes_per_s: a limit on arriving chunks; None sets none.
        store: the folder of a renewed certificate; None renews none.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        device: DeviceSettings,
        next_session: Callable[[], int],
        *,
        late_floor: Callable[[], datetime | None] = lambda: None,
        on_state: Callable[[LinkState], None] = lambda _: None,
        max_bytes_per_s: int | None = None,
        store: Path | None = None,
    ) -> None:
        topics = Topics(device.fleet)
        self._renewal = None
        if store is not None and broker.url.tls and broker.cert is not None:
            from edgeml_agent.link.renewal import CertificateRenewal  # noqa: PLC0415 - costs 3 MB

            self._renewal = CertificateRenewal(topics, device.id, broker, store, late_floor)
        newest = None if self._renewal is None else self._renewal.settings
        self._broker = session(broker, f"edgeml-{device.fleet}-{device.id}", late_floor, newest)
        self._topics, self._device = topics, device.id
        self._next_session = next_session
        self._url, self._on_state = str(broker.url), on_state
        self._backoff = backoff.Backoff(RECONNECT_FIRST_S, RECONNECT_MAX_S)
        self._current = CurrentConnection(broker.url)
        self._dispatcher = Dispatcher()
        self._status = StatusPublisher(topics, device.id)
        self._calls = CallQueue()
        self._requests = InferenceRequests(topics, device.id, self._current)
        self._acl_check = AclCheck(topics, device.id)
        if self._renewal is not None:
            self._dispatcher.set(topics.certificate(device.id), self._renewal.on_message)
        #: The signed files that the broker retains.
        self.files = SignedFiles(topics, self._current, device.id)
        #: The source of chunks.
        self.chunks = ChunkFeed(topics, device.id, self._current, max_bytes_per_s)
        #: Topics of another part of the agent.
        self.handler_topics = HandlerTopics(self._dispatcher)
        for topic, handler in {
            topics.chunk("").rstrip("/"): self.chunks.on_message,
            topics.wave("").rstrip("/"): self.chunks.on_message,
            topics.call(device.id): self._calls.on_message,
            topics.infer(device.id, "", "").rstrip("/"): self._requests.on_message,
            topics.root + "/trust": self.files.on_message,
            topics.record(device.id): self.files.on_message,
            topics.site("").rstrip("/"): self.files.on_message,
            topics.trust(trust.FLEET, trust.TIMESTAMP_FILE): self._on_timestamp,
        }.items():
            self._dispatcher.set(topic, handler)

    async def run(self) -> None:
        """See `Link.run`."""
        await self._note(LinkState(broker=self._url, connected=False, since_s=time.time()))
        while True:
            lost: EdgemlError | None = None
            try:
                await self._connect()
            except* MqttError as group:
                lost = self._current.transport_error(aio.first_error(group))
                log.failure("disconnected", lost)
            except* UsageError as group:
                lost = cast("UsageError", aio.first_error(group))
            if lost is not None:
                await self._note(failed(self._url, time.time(), lost, connected=False))
            if isinstance(lost, UsageError):
                raise lost
            await self._backoff.wait()

    @property
    def session(self) -> int:
        """The number of the current connection, or of the last one."""
        return self._status.session

    @property
    def is_online(self) -> bool:
        """Return whether the connection is up, as far as is known."""
        return self._current.is_online

    async def announced(self) -> None:
        """See `Link.announced`."""
        await self.files.changed()

    def publish_state(self, state: DeviceState) -> None:
        """See `StatusSink.publish_state`."""
        self._status.publish_state(state)

    def report(self, report: Report) -> None:
        """See `StatusSink.report`."""
        self._status.report(report)

    async def called(self) -> bytes:
        """See `CallChannel.called`."""
        return await self._calls.next()

    def reply(self, reply: Reply) -> None:
        """See `CallChannel.reply`."""
        self._status.reply(reply)

    def forward(self, topic: str, payload: bytes) -> None:
        """Publish a message of a topic handler with QoS 1, in its turn among such messages."""
        self._status.forward(topic, payload)

    async def all_forwarded(self) -> None:
        """Wait until the broker has acknowledged every message of `forward`."""
        await self._status.all_forwarded()

    def open_requests(self) -> InferenceRequests:
        """Receive requests to this device's models, from the next connection on."""
        self._acl_check = AclCheck(self._topics, self._device, requests=True)
        return self._requests.open()

    async def _connect(self) -> None:
        """Connect, and run all parts until the connection is lost."""
        await self._number_session()
        async with self._broker.connected(self._status.will) as connection:
            self._backoff.began()
            log.event("connected", broker=self._broker.url, session=self.session)
            calls = [(self._topics.call(self._device), 1)]
            await connection.subscribe(self.files.subscriptions + calls + self._requests.subscriptions)
            self.chunks.restart(connection)
            self.files.restart()
            with self._current.use(connection):
                await self._run_parts(connection)

    async def _number_session(self) -> None:
        try:
            self._status.session = await asyncio.to_thread(self._next_session)
        except DeviceError as error:
            # A device with a full disk must still report it. The number grows while this process lives.
            log.failure("session not remembered", error)
            self._status.session += 1

    async def _run_parts(self, connection: Connection) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(connection))
                tasks.create_task(self._status.run(connection))
                tasks.create_task(self.handler_topics.run(connection))
                tasks.create_task(self.chunks.run(connection))
                tasks.create_task(self._check_rights(connection))
                if self._renewal is not None:
                    tasks.create_task(self._renewal.run(connection))
        except asyncio.CancelledError:
            await self._status.publish_offline(connection)
            raise

    async def _receive(self, connection: Connection) -> None:
        async for message in connection:
            if self._acl_check.is_echo(message):
                self._acl_check.on_echo(message)
            else:
                self._dispatcher.on_message(message)

    async def _check_rights(self, connection: Connection) -> None:
        state = LinkState(broker=self._url, connected=True, since_s=time.time())
        try:
            await self._acl_check.run(connection)
        except TransportError as error:
            log.failure("rights are missing", error)
            state = failed(self._url, state.since_s, error, connected=True)
        await self._note(state)

    async def _note(self, state: LinkState) -> None:
        try:
            await asyncio.to_thread(self._on_state, state)
        except DeviceError as error:
            log.failure("connection's state not stored", error)

    def _on_timestamp(self, message: Message) -> None:
        """Handle the file that a host publishes last: it may have just started."""
        self.files.on_message(message)
        self.chunks.on_announcement()
