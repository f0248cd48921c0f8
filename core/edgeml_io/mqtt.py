"""The one adapter to MQTT, for host and device: a session with a broker, and the connections that it makes.

A session first tries MQTT 5 and then 3.1.1, and remembers the version that the broker accepts, MQTT 5 for good. It
bounds received packets and the inbox. Topics, payloads and the time of the next connection are left to the caller.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar, cast

import aiomqtt
import msgspec
from aiomqtt import ProtocolVersion
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeml_core.broker import BrokerUrl
from edgeml_io.inbox import Inbox
from edgeml_io.packet_limit import PACKET_MAX_BYTES, Bound

T = TypeVar("T")
#: The broker can't be reached, refuses, doesn't answer in time, or the connection is lost.
MqttError = aiomqtt.MqttError
#: Seconds without a packet after which the client pings: NAT tables of mobile networks forget a flow after a minute.
KEEPALIVE_S: Final = 30
#: Seconds for any other CONNACK, and for DISCONNECT.
TIMEOUT_S: Final = 10.0
#: Seconds for the first CONNACK of MQTT 5: one round trip. amqtt sends none to a CONNECT with properties.
ACCEPT_TIMEOUT_S: Final = 2.0
#: Seconds for which the broker keeps the session of an absent client: a device may be off for a week.
SESSION_EXPIRY_S: Final = 7 * 24 * 3600
#: Bytes of a PUBLISH beside topic, payload and correlation data: header, lengths and packet id take 16, at most.
PACKET_OVERHEAD_BYTES: Final = 1024
#: aiomqtt warns about each dropped message and each call beside ten others: a flood would wear out an SD card.
_ERRORS_ONLY: Final = logging.getLogger(f"{__name__}.errors")
_ERRORS_ONLY.setLevel(logging.ERROR)


#: Reason codes of a CONNACK that refuse the user: of MQTT 5, which paho uses for those of 3.1.1, too.
_REFUSED_CODES: Final = frozenset({134, 135})


#: A broker that asks for certificates hangs up like this, after the handshake.
_HUNG_UP: Final = (
    "the broker closed the connection before it answered; check cert and key where it asks for certificates"
)


class Will(msgspec.Struct, frozen=True):
    """The message that the broker publishes and retains when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes


class Message(msgspec.Struct, frozen=True):
    """A received message; nothing in it is trusted.

    `expires_s`, `reply_to` and `correlation` are properties of MQTT 5: seconds until the message expires, the response
    topic, and the correlation data. They are None where the sender set none. `packet_id` belongs to a message of QoS 1.
    """

    topic: str
    payload: bytes
    retain: bool = False
    expires_s: int | None = None
    reply_to: str | None = None
    correlation: bytes | None = None
    packet_id: int | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a session.

    Args:
        is_lasting: the broker keeps the session of an absent client; else each connection begins an empty one.
        answer_timeout_s: seconds for the broker's answer to SUBSCRIBE, UNSUBSCRIBE and PUBLISH.
        inbox_max_messages: messages received and not handled yet; the newest of more are dropped.
        inbox_max_bytes: the same in bytes of payload; None sets no bound.
        yields: whether messages on a topic fill half of the inbox at most, so that a flood of them leaves room.
        acknowledges: the receiver acknowledges messages of QoS 1 by `Connection.acknowledge`, once their content is
            safe; else each is acknowledged on its arrival.
    """

    is_lasting: bool = True
    answer_timeout_s: float = TIMEOUT_S
    inbox_max_messages: int
    inbox_max_bytes: int | None = None
    yields: Callable[[str], bool] = lambda _: False
    acknowledges: bool = False


class MisbehavingError(MqttError):
    """The peer breaks the protocol's limits: no broker announces such a packet."""


class RefusedError(MqttError):
    """The broker refuses the user's name, password or certificate: another attempt gets the same answer."""


class _Client(aiomqtt.Client):
    """aiomqtt's client, with two corrections to its waiting.

    A wait can be cancelled at any moment, and ends with the connection; aiomqtt waits with `asyncio.wait_for`, see
    `edgeml_io.aio.within`. The broker may answer a call after its caller was cancelled; aiomqtt logs a `KeyError` then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - aiomqtt's own
        super().__init__(*args, **kwargs)
        #: Done at the end of the connection.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Bytes of the longest packet that the broker takes, as far as it is known.
        self.packet_max_bytes = math.inf
        #: Packet ids of calls whose caller no longer waits.
        self._abandoned: set[int] = set()
        self.is_v5 = kwargs.get("protocol") is ProtocolVersion.V5

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - aiomqtt's signature
        limit_s = self.timeout if timeout is None else timeout
        answer = asyncio.ensure_future(fut)
        try:
            waited: set[asyncio.Future[Any]] = {answer, self.ended}
            await asyncio.wait(
                waited,
                timeout=None if limit_s == math.inf else limit_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer.done():
                return answer.result()
            raise MqttError("the connection was lost" if self.ended.done() else "the broker gave no answer in time")
        finally:
            answer.cancel()

    @contextmanager
    def _pending_call(self, mid: int, value: T, pending_dict: dict[int, T]) -> Iterator[None]:
        self._abandoned.discard(mid)
        try:
            with super()._pending_call(mid, value, pending_dict):
                yield
        except BaseException:
            self._abandoned.add(mid)
            raise

    def _on_connect(
        self,
        client: Any,  # noqa: ANN401 - aiomqtt's
        userdata: Any,  # noqa: ANN401 - aiomqtt's
        flags: Any,  # noqa: ANN401 - aiomqtt's
        reason_code: Any,  # noqa: ANN401 - aiomqtt's
        properties: Properties | None = None,
    ) -> None:
        # MQTT 5 brokers name their limit; to 3.1.1 clients they can't.
        self.packet_max_bytes = getattr(properties, "MaximumPacketSize", math.inf)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:  # noqa: ANN401 - aiomqtt's
        waiting = self._queue.qsize()
        super()._on_message(client, userdata, message)
        if self._queue.qsize() == waiting:
            # The inbox had no room. Without an acknowledgement the broker would soon send nothing more.
            client.ack(message.mid, message.qos)

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, *answer: Any) -> None:  # noqa: ANN401 - aiomqtt's
        if mid not in self._abandoned:
            super()._on_subscribe(client, userdata, mid, *answer)

    def _on_disconnect(self, client: Any, userdata: Any, *reason: Any) -> None:  # noqa: ANN401 - aiomqtt's
        # aiomqtt would wait for the CONNACK of a broker that has hung up.
        if self._connected.done():
            super()._on_disconnect(client, userdata, *reason)
        else:
            self._connected.set_exception(MqttError(_HUNG_UP))

    def _on_unsubscribe(self, client: Any, userdata: Any, mid: int, *answer: Any) -> None:  # noqa: ANN401 - aiomqtt's
        if mid not in self._abandoned:
            super()._on_unsubscribe(client, userdata, mid, *answer)


class Connection:
    """One connection to a broker; iterate over it to receive messages.

    Every method raises `MqttError` when the connection is lost, or when the broker doesn't answer in time.
    """

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._messages = client.messages

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> Message:
        received = await anext(self._messages)
        properties = received.properties
        return Message(
            topic=str(received.topic),
            payload=received.payload,
            retain=received.retain,
            expires_s=getattr(properties, "MessageExpiryInterval", None),
            reply_to=getattr(properties, "ResponseTopic", None),
            correlation=getattr(properties, "CorrelationData", None),
            packet_id=received.mid if received.qos else None,
        )

    def acknowledge(self, message: Message) -> None:
        """Acknowledge a message of QoS 1, where the session's `acknowledges` is set.

        After the end of the connection this does nothing: the broker sends the message again on the next one.
        """
        if message.packet_id is not None and not self._client.ended.done():
            self._client._client.ack(message.packet_id, 1)  # noqa: SLF001 - aiomqtt has no method for it

    async def subscribe(self, subscriptions: Sequence[tuple[str, int]], *, timeout_s: float | None = None) -> None:
        """Subscribe to topics, and wait until the broker confirms.

        Args:
            subscriptions: topic filters with their QoS.
            timeout_s: seconds for the confirmation; `math.inf` sets no bound, None is the session's.
        """
        await self._client.subscribe(list(subscriptions), timeout=timeout_s)

    async def subscribe_to_others(self, topics: Sequence[str]) -> None:
        """Subscribe with QoS 1 to what other clients publish from now on: no retained messages, and none of our own.

        MQTT 3.1.1 can't leave those out: with such a broker nothing is subscribed to.
        """
        if self._client.is_v5:
            others = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            await self._client.subscribe([(topic, others) for topic in topics])

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Unsubscribe from topics, and wait until the broker confirms."""
        await self._client.unsubscribe(list(topics))

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        correlation: bytes | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Publish a message, and wait until it is written (QoS 0) or acknowledged (QoS 1).

        Args:
            topic: the topic.
            payload: the payload.
            qos: 0 or 1.
            retain: whether the broker keeps it for later subscribers.
            correlation: correlation data of MQTT 5.
            timeout_s: as for `subscribe`.

        Returns:
            False when the message is longer than the broker takes. Then nothing is sent: the broker would disconnect.
        """
        content_bytes = len(topic.encode()) + len(payload) + len(correlation or b"")
        if PACKET_OVERHEAD_BYTES + content_bytes > self._client.packet_max_bytes:
            return False
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho has no annotation here
            properties.CorrelationData = correlation
        await self._client.publish(topic, payload, qos, retain, properties, timeout=timeout_s)
        return True


class Session:
    """One client's session with a broker, across connections.

    Args:
        url: the broker's address, with user and password.
        client_id: the MQTT client id, which names the session.
        options: the session's properties.
        tls: makes the TLS context of a connection; called for each one when the address is `mqtts`.
    """

    def __init__(
        self, url: BrokerUrl, client_id: str, options: Options, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        self.url = url
        self._client_id = client_id
        self._options = options
        self._tls = tls if url.tls else None
        self._versions = (ProtocolVersion.V5, ProtocolVersion.V311)
        #: Whether the broker has accepted MQTT 5. Then a CONNECT without an answer says that it is busy.
        self._has_v5 = False

    @asynccontextmanager
    async def connected(self, will: Will | None = None) -> AsyncIterator[Connection]:
        """Connect for the time of the block.

        Args:
            will: set for this connection.

        Raises:
            RefusedError: the broker refuses the user.
            MqttError: the broker can't be reached or refuses; or, later, the connection is lost.
        """
        context = self.prepare()
        async with AsyncExitStack() as stack:
            first, second = self._versions
            try:
                client = await stack.enter_async_context(_open(self._client(will, context, first)))
            except RefusedError:
                raise
            except MqttError:
                # Brokers of 3.1.1 refuse MQTT 5, hang up, or stay silent.
                client = await stack.enter_async_context(_open(self._client(will, context, second)))
                if not self._has_v5:
                    self._versions = (second, first)
            self._has_v5 |= client.is_v5
            client.timeout = self._options.answer_timeout_s
            yield Connection(client)

    def prepare(self) -> ssl.SSLContext | None:
        """Return the TLS context of the next connection; None for one without TLS."""
        return self._tls() if self._tls else None

    def _client(self, will: Will | None, tls: ssl.SSLContext | None, version: ProtocolVersion) -> _Client:
        url, options, is_v5 = self.url, self._options, version is ProtocolVersion.V5
        inbox = functools.partial(Inbox, max_bytes=options.inbox_max_bytes or math.inf, yields=options.yields)
        client = _Client(
            url.host,
            url.port,
            username=url.username,
            password=url.password,
            identifier=self._client_id,
            protocol=version,
            will=aiomqtt.Will(will.topic, will.payload, qos=1, retain=True) if will else None,
            # MQTT 5 and 3.1.1 have different flags for a new session.
            clean_session=None if is_v5 else not options.is_lasting,
            clean_start=not options.is_lasting if is_v5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=_connect_properties(is_lasting=options.is_lasting) if is_v5 else None,
            timeout=ACCEPT_TIMEOUT_S if is_v5 and version is self._versions[0] and not self._has_v5 else TIMEOUT_S,
            keepalive=KEEPALIVE_S,
            queue_type=cast("type[Inbox]", inbox),
            max_queued_incoming_messages=options.inbox_max_messages,
            logger=_ERRORS_ONLY,
            tls_context=tls,
        )
        client._client.manual_ack_set(options.acknowledges)  # noqa: SLF001 - as above
        return client


@asynccontextmanager
async def _open(client: _Client) -> AsyncIterator[_Client]:
    """Connect with bounded packets; close the socket and end all waits when the block ends."""
    bound = Bound(client._client)  # noqa: SLF001 - see `packet_limit`
    try:
        async with client:
            yield client
    except (MqttError, ExceptionGroup) as error:
        if bound.excess_bytes:
            raise MisbehavingError(f"it announces a packet of {bound.excess_bytes} bytes") from error
        if isinstance(error, MqttConnectError) and getattr(error.rc, "value", error.rc) in _REFUSED_CODES:
            raise RefusedError("it refuses the user's name, password or certificate") from error
        raise
    finally:
        if not client.ended.done():
            client.ended.set_result(None)
        # After a packet that paho can't read, aiomqtt takes the connection for closed, but leaves the socket open.
        client._client._sock_close()  # noqa: SLF001


def _connect_properties(*, is_lasting: bool) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho has no annotation here
    properties.SessionExpiryInterval = SESSION_EXPIRY_S if is_lasting else 0
    properties.MaximumPacketSize = PACKET_MAX_BYTES
    return properties
