"""Connections to the broker: MQTT 5 where it is spoken, else 3.1.1; one session that outlives them, and a will.

What goes over them, and when to try again, is `link`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

from aiomqtt import Client, Message, MqttError, ProtocolVersion, Will
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeml_agent.settings import BrokerSettings
from edgeml_core.errors import UsageError
from edgeml_io.aio import within
from edgeml_io.packet_limit import PACKET_MAX_BYTES, Bound

T = TypeVar("T")
KEEPALIVE_S: Final = 30
TIMEOUT_S: Final = 10.0
#: On a slow road answers come after a window of chunks; whether the broker is still there, the keepalive watches.
ANSWER_TIMEOUT_S: Final = 60.0
#: For the answer to the first CONNECT, one way there and back: amqtt gives none to a version 5 with properties.
ACCEPT_TIMEOUT_S: Final = 2.0
#: How long the broker keeps the session of an absent device.
SESSION_EXPIRY_S: Final = 7 * 24 * 3600
#: Messages received and not looked at yet: looking takes microseconds, so more means that something is badly wrong.
INBOX_MAX_MESSAGES: Final = 4096
INBOX_MAX_BYTES: Final = 16 * 1024**2
#: OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for.
_TIMES_UNCHECKED: Final = 0x200000
#: aiomqtt warns of each message that finds no room, and of each call beside ten others: whoever floods a device with
#: requests would wear its SD card out.
_ERRORS_ONLY: Final = logging.getLogger(f"{__name__}.errors")
_ERRORS_ONLY.setLevel(logging.ERROR)


class Inbox(asyncio.Queue[Message]):
    """Messages received and not looked at yet, bounded by their number and their bytes; the newest of too many go."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._held_bytes = 0

    def full(self) -> bool:
        """Whether there is no room for another."""
        return super().full() or self._held_bytes >= INBOX_MAX_BYTES

    def _put(self, item: Message) -> None:
        self._held_bytes += len(item.payload or b"")
        super()._put(item)

    def _get(self) -> Message:
        item: Message = super()._get()
        self._held_bytes -= len(item.payload or b"")
        return item


class MisbehavingError(MqttError):
    """What answers as the broker does what none may."""


class _Client(Client):
    """aiomqtt's client, but what waits for the broker's answers can be cancelled: see `within`."""

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - aiomqtt's signature
        try:
            return await within(fut, self.timeout if timeout is None else timeout)
        except TimeoutError as error:
            raise MqttError("the broker gave no answer in time") from error


class Broker:
    """The broker, as one session of it is used; remembers which version of MQTT it speaks.

    Args:
        name: the session's, which is also the client's id.
        is_late: whether the clock is wrong for certain. Then a certificate's times aren't checked, all else is: else a
            board that wakes up in 1970 could never connect.
    """

    def __init__(self, settings: BrokerSettings, name: str, is_late: Callable[[], bool] = lambda: False) -> None:
        self._settings = settings
        self._is_late = is_late
        self._name = name
        self._versions = (ProtocolVersion.V5, ProtocolVersion.V311)

    @asynccontextmanager
    async def connected(self, will: Will | None) -> AsyncIterator[Client]:
        """A connection.

        Raises:
            aiomqtt.MqttError: the broker can't be reached or refuses; or, later, the connection is lost.
            UsageError: `config-invalid`, when a certificate file can't be used.
        """
        tls = _tls(self._settings, is_late=self._is_late()) if self._settings.url.tls else None
        async with AsyncExitStack() as stack:
            first, second = self._versions
            try:
                client = await stack.enter_async_context(_bounded(self._client(will, tls, first, ACCEPT_TIMEOUT_S)))
            except MqttError:
                # Some brokers say that they don't know version 5, some hang up, some say nothing.
                client = await stack.enter_async_context(_bounded(self._client(will, tls, second, TIMEOUT_S)))
                self._versions = (second, first)
            client.timeout = ANSWER_TIMEOUT_S
            yield client

    def _client(
        self, will: Will | None, tls: ssl.SSLContext | None, version: ProtocolVersion, timeout_s: float
    ) -> Client:
        url, is_v5 = self._settings.url, version is ProtocolVersion.V5
        return _Client(
            url.host,
            url.port,
            username=url.username,
            password=url.password,
            identifier=self._name,
            protocol=version,
            will=will,
            # Each version says in its own way that the session isn't to be wiped.
            clean_session=None if is_v5 else False,
            clean_start=False if is_v5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=_properties() if is_v5 else None,
            timeout=timeout_s,
            keepalive=KEEPALIVE_S,
            queue_type=Inbox,
            max_queued_incoming_messages=INBOX_MAX_MESSAGES,
            logger=_ERRORS_ONLY,
            tls_context=tls,
        )


@asynccontextmanager
async def _bounded(client: Client) -> AsyncIterator[Client]:
    """A connection whose packets are bounded, and whose socket is closed at its end, however it ends."""
    bound = Bound(client._client)  # noqa: SLF001 - see `packets`
    try:
        async with client:
            yield client
    except (MqttError, ExceptionGroup) as error:
        if bound.excess_bytes:
            raise MisbehavingError(f"it announces a packet of {bound.excess_bytes} bytes") from error
        raise
    finally:
        # After a message that it can't read, aiomqtt takes the connection for closed, and leaves it open.
        client._client._sock_close()  # noqa: SLF001


def _properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho has no annotation here
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.MaximumPacketSize = PACKET_MAX_BYTES
    return properties


def _tls(broker: BrokerSettings, *, is_late: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=broker.ca)
        if is_late:
            context.verify_flags |= _TIMES_UNCHECKED
        if broker.cert is not None:
            context.load_cert_chain(broker.cert, broker.key)
    except OSError as error:
        message = f"the broker's ca, cert or key can't be used: {error}"
        raise UsageError("config-invalid", message, "name PEM files in the [broker] section of agent.toml") from error
    return context
