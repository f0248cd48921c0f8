"""Connections to the broker: MQTT 5 where it is spoken, else 3.1.1; one session that outlives them, and a will.

What goes over them, and when to try again, is `link`'s business.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiomqtt import Client, MqttError, ProtocolVersion, Will
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeml_agent.settings import BrokerSettings
from edgeml_core.errors import UsageError
from edgeml_core.manifest import MANIFEST_MAX_BYTES

KEEPALIVE_S: Final = 30
TIMEOUT_S: Final = 10.0
#: On a slow road answers come after a window of chunks; whether the broker is still there, the keepalive watches.
ANSWER_TIMEOUT_S: Final = 60.0
#: For the answer to the first CONNECT, one way there and back: amqtt gives none to a version 5 with properties.
ACCEPT_TIMEOUT_S: Final = 2.0
#: How long the broker keeps the session of an absent device.
SESSION_EXPIRY_S: Final = 7 * 24 * 3600
#: The longest packet is one with a manifest; brokers of version 5 hold longer ones back.
PACKET_MAX_BYTES: Final = MANIFEST_MAX_BYTES + 64 * 1024
#: Messages received and not looked at yet: looking takes microseconds, so more means that something is badly wrong.
INBOX_MAX_MESSAGES: Final = 4096
#: OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for.
_TIMES_UNCHECKED: Final = 0x200000


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
                client = await stack.enter_async_context(self._client(will, tls, first, ACCEPT_TIMEOUT_S))
            except MqttError:
                # Some brokers say that they don't know version 5, some hang up, some say nothing.
                client = await stack.enter_async_context(self._client(will, tls, second, TIMEOUT_S))
                self._versions = (second, first)
            client.timeout = ANSWER_TIMEOUT_S
            yield client

    def _client(
        self, will: Will | None, tls: ssl.SSLContext | None, version: ProtocolVersion, timeout_s: float
    ) -> Client:
        url, is_v5 = self._settings.url, version is ProtocolVersion.V5
        return Client(
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
            max_queued_incoming_messages=INBOX_MAX_MESSAGES,
            tls_context=tls,
        )


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
