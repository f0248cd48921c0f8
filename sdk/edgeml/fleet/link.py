"""The host's connection to the broker: MQTT 5 where the broker speaks it, else 3.1.1. One library: aiomqtt.

One connection a call; when to try again is `serve`'s business. What aiomqtt raises stays inside `edgeml.fleet`.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from aiomqtt import Client, MqttError, ProtocolVersion
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeml_core.broker import BrokerUrl
from edgeml_core.errors import UsageError
from edgeml_io.aio import within
from edgeml_io.packet_limit import PACKET_MAX_BYTES, Bound

T = TypeVar("T")
KEEPALIVE_S: Final = 30
TIMEOUT_S: Final = 10.0
#: For the answer to a CONNECT of version 5: some brokers of 3.1.1 give none.
ACCEPT_TIMEOUT_S: Final = 2.0
#: How long the broker keeps for an absent host what devices say.
SESSION_EXPIRY_S: Final = 7 * 24 * 3600
#: Messages received and not looked at yet; further ones are lost, and devices repeat what matters.
INCOMING_MAX: Final = 10_000
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0


class _Client(Client):
    """aiomqtt's client, but what waits for the broker's answers can be cancelled: see `within`."""

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 - aiomqtt's signature
        try:
            return await within(fut, self.timeout if timeout is None else timeout)
        except TimeoutError as error:
            raise MqttError("the broker gave no answer in time") from error


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Where and as whom to connect. `ca` replaces the system's authorities; `cert` and `key` are the client's own."""

    url: BrokerUrl
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@asynccontextmanager
async def connected(broker: Broker, session: str, *, lasting: bool = True) -> AsyncIterator[Client]:
    """A connection.

    Args:
        broker: where to.
        session: its name, which is also the client's id.
        lasting: whether it goes on where it was, and is kept afterwards; else nothing of it is.

    Raises:
        MqttError: the broker can't be reached or refuses. UsageError: a certificate file can't be used.
    """
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(_client(broker, session, ProtocolVersion.V5, lasting=lasting))
        except MqttError:
            # Some brokers say that they don't know version 5, some just hang up.
            client = await stack.enter_async_context(_client(broker, session, ProtocolVersion.V311, lasting=lasting))
        client.timeout = TIMEOUT_S
        yield client


def backoff_s(attempt: int) -> float:
    """How long to wait before the reconnection `attempt`, from 0: doubling, bounded, with jitter down to half."""
    longest_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16))
    return longest_s * (0.5 + secrets.randbelow(1000) / 2000)


def _client(broker: Broker, session: str, protocol: ProtocolVersion, *, lasting: bool) -> Client:
    is_v5 = protocol is ProtocolVersion.V5
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho has no annotation here
    properties.SessionExpiryInterval = SESSION_EXPIRY_S if lasting else 0
    properties.MaximumPacketSize = PACKET_MAX_BYTES
    client = _Client(
        broker.url.host,
        broker.url.port,
        username=broker.url.username,
        password=broker.url.password,
        identifier=session,
        protocol=protocol,
        # Each version says in its own way whether the session is to be wiped.
        clean_session=None if is_v5 else not lasting,
        clean_start=not lasting if is_v5 else MQTT_CLEAN_START_FIRST_ONLY,
        properties=properties if is_v5 else None,
        tls_context=_tls_context(broker) if broker.url.tls else None,
        timeout=ACCEPT_TIMEOUT_S if is_v5 else TIMEOUT_S,
        keepalive=KEEPALIVE_S,
        max_queued_incoming_messages=INCOMING_MAX,
    )
    Bound(client._client)  # noqa: SLF001 - see `packets`; what is too long looks like a lost connection here
    return client


def _tls_context(broker: Broker) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=broker.ca)
        if broker.cert is not None:
            context.load_cert_chain(broker.cert, broker.key)
    except (OSError, ssl.SSLError) as error:
        hint = "name PEM files with --ca, --cert and --key"
        raise UsageError("usage", f"the broker's certificate files can't be used: {error}", hint) from error
    return context
