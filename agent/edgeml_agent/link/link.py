"""The adapter to MQTT: one connection, kept up; signed files, chunks, calls, state and reports over it.

One connection and one persistent session: a broker that takes the client id from the user name, as it should, throws
the first of two connections off. Chunks still pile up nowhere: they are QoS 0, on exact topics that are left as they
arrive, never more than a window of them; a topic left over from an earlier run is left at its first message.

Received files, queued chunks and the outbox are bounded. Nothing received is trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

import msgspec
from aiomqtt import Client, MqttError, Will

from edgeml_agent import log
from edgeml_agent.link import mqtt
from edgeml_agent.link.acl_check import Rights
from edgeml_agent.link.chunk_topics import ChunkTopics
from edgeml_agent.link.inference_requests import RequestLine
from edgeml_agent.link.outbox import Forwarded, Outbox, Outgoing
from edgeml_agent.link.rate_limit import Cap
from edgeml_agent.link.signed_files import SignedFiles
from edgeml_agent.ports import Arrival, TopicHandler
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import messages, trust
from edgeml_core.calls import Reply
from edgeml_core.errors import DeviceError, TransportError
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_io import backoff

RECONNECT_FIRST_S: Final = 1.0
RECONNECT_MAX_S: Final = 120.0
#: A connection that lasted so long was a good one: the next back-off begins anew.
STABLE_S: Final = 60.0
#: How long a request waits for a connection, and a retained file for its arrival.
CONNECT_WAIT_S: Final = 20.0
RETAINED_WAIT_S: Final = 10.0
#: Signed files come in bursts: what follows within so short a time belongs together.
SETTLE_S: Final = 0.3
GOODBYE_S: Final = 3.0
#: The broker sends what it retains about when it confirms the subscription.
POSITION_WAIT_S: Final = 0.05
CALLS_QUEUED_MAX: Final = 4
_ROOT_SUFFIX: Final = ".root.json"
_ANNOUNCED_LAST: Final = f"{trust.METADATA_DIR}/timestamp.json"

T = TypeVar("T")


class MqttLink:
    """The link of one device. It also is its own `ChunkSource`.

    Args:
        next_session: the number of a new connection, remembered across restarts.
        is_late: see `mqtt.Broker`.
        max_bytes_per_s: of chunks that come in.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        device: DeviceSettings,
        next_session: Callable[[], int],
        *,
        is_late: Callable[[], bool] = lambda: False,
        max_bytes_per_s: int | None = None,
    ) -> None:
        self.session = 0
        self._url = broker.url
        self._broker = mqtt.Broker(broker, f"edgeml-{device.fleet}-{device.id}", is_late)
        self._device = device
        self._topics = Topics(device.fleet)
        self._next_session = next_session
        self._client: Client | None = None
        self._online = asyncio.Event()
        self._files = SignedFiles(self._topics)
        self._chunks = ChunkTopics(self._topics)
        self._cap = Cap(max_bytes_per_s)
        self._requests = RequestLine(self._topics, device.id)
        self._rights = Rights(self._topics, device.id)
        self._asks: set[asyncio.Future[Any]] = set()
        self._announced_last = self._topics.trust(trust.FLEET, _ANNOUNCED_LAST)
        self._state = DeviceState(online=True, session=0)
        self._state_is_new = False
        self._called: asyncio.Queue[bytes] = asyncio.Queue(CALLS_QUEUED_MAX)
        self._handler: TopicHandler | None = None
        self._carried: set[str] = set()
        self._heard: set[str] = set()
        self._outbox = Outbox()
        self._to_send = asyncio.Event()

    async def run(self) -> None:
        """See `Link.run`."""
        delays = backoff.delays(RECONNECT_FIRST_S, RECONNECT_MAX_S)
        while True:
            begun = time.monotonic()
            try:
                await self._connection()
            except* MqttError as group:
                log.failure("disconnected", self._unreachable(_first(group)))
            if time.monotonic() - begun > STABLE_S:
                delays = backoff.delays(RECONNECT_FIRST_S, RECONNECT_MAX_S)
            await asyncio.sleep(next(delays))

    async def announced(self) -> None:
        """See `Link.announced`; it waits until no more files come in."""
        await self._files.changed.wait()
        while self._files.changed.is_set():
            self._files.changed.clear()
            await asyncio.sleep(SETTLE_S)

    def show(self, state: DeviceState) -> None:
        """See `StatusSink.show`."""
        self._state_is_new |= state != self._state
        self._state = state
        self._to_send.set()

    def report(self, report: Report) -> None:
        """See `StatusSink.report`; the oldest of too many go."""
        self._outbox.add(report)

    async def called(self) -> bytes:
        """See `CallLine.called`."""
        return await self._called.get()

    def reply(self, reply: Reply) -> None:
        """See `CallLine.reply`; it goes out in its turn among the reports."""
        self._outbox.add(reply)

    def set_handler(self, handler: TopicHandler) -> None:
        """Hand messages on the topics of `handler` to it."""
        self._handler = handler

    def open_requests(self) -> RequestLine:
        """Hear requests to this device's models, from the next connection on."""
        self._rights = Rights(self._topics, self._device.id, requests=True)
        return self._requests.open()

    def listen(self, topics: Collection[str]) -> None:
        """Hear these topics for the passenger, and those named before no longer."""
        self._carried = set(topics)
        self._to_send.set()

    def send(self, topic: str, payload: bytes) -> None:
        """Say something for the passenger, in its turn among the reports."""
        self._outbox.add(Forwarded(topic, payload))

    @property
    def is_online(self) -> bool:
        """Whether the connection is up, as far as is known."""
        return self._online.is_set()

    def signed(self) -> dict[str, bytes]:
        """The metadata that came, by topic."""
        return self._files.held

    async def file(self, repo: str, file: str) -> bytes | None:
        """One signed file, as the broker has it; None when there is none.

        Raises:
            TransportError: `broker-unreachable`.
        """
        if (held := self._files.get(repo, file)) is not None:
            return held
        if file.endswith(_ROOT_SUFFIX):
            # Roots are tried one after the other until there is no more: all that exist came when we subscribed.
            return None
        client, topic = await self._connected(), self._topics.trust(repo, file)
        with self._files.expected(topic) as arrival:
            await self._call(client.subscribe(topic, qos=1))
            try:
                async with asyncio.timeout(RETAINED_WAIT_S):
                    return await arrival
            except TimeoutError:
                return None
            finally:
                await self._call(client.unsubscribe(topic))

    @property
    def position(self) -> str:
        """See `ChunkSource.position`."""
        return self._chunks.position

    async def follow(self, release: str) -> None:
        """See `ChunkSource.follow`; it waits for the position as it is now."""
        self._chunks.follow(release)
        self._to_send.set()
        if release:
            client = await self._connected()
            await self._call(client.subscribe(self._topics.wave(release)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POSITION_WAIT_S):
                    await self._chunks.positioned.wait()

    async def want(self, keys: Collection[str]) -> None:
        """See `ChunkSource.want`. The broker's answer isn't waited for: it comes after all that is on its way."""
        await asyncio.sleep(self._cap.wait_s(time.monotonic()))
        client = await self._connected()
        self._ask(client, self._chunks.want(keys), tuple(keys))

    async def receive(self, timeout_s: float) -> Arrival | None:
        """See `ChunkSource.receive`."""
        return await self._chunks.receive(timeout_s)

    async def drop(self, keys: Collection[str]) -> None:
        """See `ChunkSource.drop`; they are left together with those that another drop named."""
        self._chunks.drop(keys)
        self._to_send.set()

    async def _connection(self) -> None:
        """One connection from birth to end."""
        try:
            self.session = await asyncio.to_thread(self._next_session)
        except DeviceError as error:
            # A full disk must still be heard of: the number counts on, for as long as this process lives.
            log.failure("session not remembered", error)
            self.session += 1
        will = Will(self._topics.state(self._device.id), self._own_state(online=False), qos=1, retain=True)
        async with self._broker.connected(will) as client:
            log.event("connected", broker=self._url, session=self.session)
            self._files.forget()
            subscriptions = [(self._topics.trust("+", "metadata/+"), 1), (self._topics.call(self._device.id), 1)]
            await client.subscribe(subscriptions + self._requests.subscriptions)
            self._ask(client, self._chunks.subscriptions, tuple(self._chunks.wanted))
            self._client, self._state_is_new, self._heard = client, True, set()
            self._requests.client = client
            self._online.set()
            self._to_send.set()
            self._files.changed.set()
            if self._handler is not None:
                self._handler.connected()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._receive_all(client))
                    tasks.create_task(self._send_all(client))
                    tasks.create_task(self._publish_outbox(client))
                    tasks.create_task(self._check_rights(client))
            except asyncio.CancelledError:
                await self._say_goodbye(client)
                raise
            finally:
                self._client = self._requests.client = None
                self._online.clear()
                for ask in list(self._asks):
                    ask.cancel()

    def _ask(self, client: Client, subscriptions: list[tuple[str, int]], keys: tuple[str, ...]) -> None:
        """Subscribe and want, in this order, in one go. When the connection is lost, the next one asks again."""
        want_topic = self._topics.want(self._device.id)
        calls: list[Awaitable[object]] = [client.subscribe(subscriptions, timeout=math.inf)] if subscriptions else []
        for start in range(0, len(keys), messages.WANTS_MAX):
            want = messages.encode(Want(keys=keys[start : start + messages.WANTS_MAX]))
            calls.append(client.publish(want_topic, want, timeout=math.inf))
        ask = asyncio.create_task(_ended(calls))
        self._asks.add(ask)
        ask.add_done_callback(self._asks.discard)

    async def _receive_all(self, client: Client) -> None:
        async for message in client.messages:
            topic, payload = str(message.topic), message.payload
            if not isinstance(payload, bytes):
                continue
            if self._rights.on_message(topic, payload) or self._requests.take(message):
                continue
            if self._chunks.take(topic, payload):
                self._cap.spend(len(payload), time.monotonic())
                if self._chunks.has_to_leave:
                    self._to_send.set()
            elif topic == self._topics.call(self._device.id):
                self._take_call(payload, retained=message.retain)
            elif self._handler is not None and topic in self._carried:
                self._handler.on_message(topic, payload)
            else:
                self._files.take(topic, payload)
                if topic == self._announced_last and self._chunks.is_starved(time.monotonic()):
                    # Whoever announces has just come back: it knows nothing of what was wanted before.
                    self._ask(client, [], tuple(self._chunks.wanted))

    async def _check_rights(self, client: Client) -> None:
        try:
            await self._rights.check(client)
        except TransportError as error:
            log.failure("rights are missing", error)

    def _take_call(self, payload: bytes, *, retained: bool) -> None:
        """A call is for now: a retained one was for somebody who has gone."""
        with contextlib.suppress(asyncio.QueueFull):
            if not retained:
                self._called.put_nowait(payload)

    async def _send_all(self, client: Client) -> None:
        """Publish the state and change subscriptions, as they change."""
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            if self._state_is_new:
                self._state_is_new = False
                await self._publish_state(client, online=True)
            await self._hear_carried(client)
            if left := self._chunks.left():
                await client.unsubscribe(left)

    async def _hear_carried(self, client: Client) -> None:
        """Listen to the passenger's topics, as they are now."""
        carried, heard = self._carried, self._heard
        self._heard = carried
        if new := sorted(carried - heard):
            await client.subscribe([(topic, 1) for topic in new])
        if left := sorted(heard - carried):
            await client.unsubscribe(left)

    async def _publish_outbox(self, client: Client) -> None:
        """Publish what is in the outbox, in order; a message leaves it after the broker's PUBACK."""
        while True:
            message = await self._outbox.oldest()
            await client.publish(*self._addressed(message), qos=1)
            self._outbox.remove(message)

    def _addressed(self, message: Outgoing) -> tuple[str, bytes]:
        match message:
            case Forwarded(topic, payload):
                return topic, payload
            case Report():
                report = msgspec.structs.replace(message, session=self.session)
                return self._topics.report(self._device.id), messages.encode(report)
            case _:
                return self._topics.reply(self._device.id), messages.encode(message)

    async def _say_goodbye(self, client: Client) -> None:
        with contextlib.suppress(MqttError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._publish_state(client, online=False)

    async def _publish_state(self, client: Client, *, online: bool) -> None:
        await client.publish(self._topics.state(self._device.id), self._own_state(online=online), qos=1, retain=True)

    def _own_state(self, *, online: bool) -> bytes:
        return messages.encode(msgspec.structs.replace(self._state, online=online, session=self.session))

    async def _connected(self) -> Client:
        try:
            async with asyncio.timeout(CONNECT_WAIT_S):
                await self._online.wait()
        except TimeoutError as error:
            message = f"no connection to {self._url} within {CONNECT_WAIT_S:.0f} s"
            raise TransportError("broker-unreachable", message, "check [broker] url and the network") from error
        assert self._client is not None  # noqa: S101 - set before the event, on the same loop
        return self._client

    async def _call(self, call: Awaitable[T]) -> T:
        """What the broker answers. The end of the connection ends the waiting; aiomqtt would go on with it."""
        answer = asyncio.ensure_future(call)
        self._asks.add(answer)
        try:
            await asyncio.wait({answer})
        finally:
            self._asks.discard(answer)
            answer.cancel()
        if answer.cancelled():
            raise self._unreachable(MqttError("the connection was lost"))
        try:
            return answer.result()
        except MqttError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> TransportError:
        if isinstance(error, mqtt.MisbehavingError):
            hint = "find out who runs what answers there, and check [broker] url and ca in agent.toml"
            return TransportError("broker-misbehaves", f"{self._url}: {error}", hint)
        hint = "check [broker] in agent.toml, the network and the broker's log; it is tried again"
        return TransportError("broker-unreachable", f"{self._url}: {error}", hint)


async def _ended(calls: list[Awaitable[object]]) -> None:
    """Begin calls in this order, and wait until all have ended, however."""
    await asyncio.gather(*calls, return_exceptions=True)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
