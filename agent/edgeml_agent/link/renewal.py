"""Renewal of the device's certificate over its own connection, after half of the certificate's time.

The present connection goes on: the next one uses the new certificate. Before that the broker must accept it in a TLS
handshake of its own, which sends no MQTT. So no request is lost, and a certificate that doesn't work replaces none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edgeml_agent import log
from edgeml_agent.link.certificate import DeviceCertificate, Pair
from edgeml_agent.link.session import tls_context
from edgeml_agent.settings import BrokerSettings
from edgeml_core import enrollment
from edgeml_core.enrollment import RenewAnswer
from edgeml_core.errors import EdgemlError, RejectedError, TransportError
from edgeml_core.messages import Topics
from edgeml_io import backoff, tls
from edgeml_io.mqtt import Connection, Message

#: Seconds between two looks at the certificate.
CHECK_EVERY_S: Final = 3600.0
#: Seconds until the next request after one that failed: the host may be away for days.
RETRY_S: Final = 6 * 3600.0
#: Seconds for the host's answer.
ANSWER_TIMEOUT_S: Final = 60.0
#: Seconds before the first look of a connection: a fleet that connects again has more urgent messages.
FIRST_S: Final = 5.0


class CertificateRenewal:
    """One device's renewals.

    Args:
        topics: of the fleet.
        device: the id.
        broker: the broker's section of agent.toml.
        store: the store's folder.
        late_floor: see `edgeml_agent.link.session`.
    """

    def __init__(
        self,
        topics: Topics,
        device: str,
        broker: BrokerSettings,
        store: Path,
        late_floor: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        self._request_topic = topics.renew(device)
        self._answer_topic = topics.certificate(device)
        self._certificate = DeviceCertificate(broker, store)
        self._late_floor = late_floor
        self._answer: asyncio.Future[bytes] | None = None
        self._next_s = 0.0

    def settings(self) -> BrokerSettings:
        """Return the broker's section with the files that a new connection uses."""
        return self._certificate.settings()

    def on_message(self, message: Message) -> None:
        """Take the host's answer; one that no request waits for is dropped."""
        if self._answer is not None and not self._answer.done() and not message.retain:
            self._answer.set_result(message.payload)

    async def run(self, connection: Connection) -> NoReturn:
        """Renew whenever it is due, until cancelled.

        Raises:
            MqttError: the connection is lost.
        """
        await asyncio.sleep(backoff.jittered(FIRST_S))
        while True:
            if time.monotonic() >= self._next_s:
                await self._renew_if_due(connection)
            await asyncio.sleep(backoff.jittered(CHECK_EVERY_S))

    async def _renew_if_due(self, connection: Connection) -> None:
        try:
            present = await asyncio.to_thread(self._certificate.present)
            now = self._late_floor() or datetime.now(UTC)
            if present is None or not self._certificate.is_due(present.certificate, now):
                return
            self._next_s = time.monotonic() + backoff.jittered(RETRY_S)
            key, request = self._certificate.request(present)
            answered = await self._ask(connection, msgspec.json.encode(request))
            await self._try(present, key, answered)
            log.event("certificate renewed")
        except EdgemlError as error:
            log.failure("certificate not renewed", error)

    async def _ask(self, connection: Connection, payload: bytes) -> str:
        self._answer = asyncio.get_running_loop().create_future()
        await connection.subscribe([(self._answer_topic, 1)])
        await connection.publish(self._request_topic, payload, qos=1)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = enrollment.decode(await self._answer, RenewAnswer)
        except TimeoutError as error:
            message = f"the host hasn't answered within {ANSWER_TIMEOUT_S:.0f} s"
            raise TransportError("trust-unavailable", message, "run `edgeml fleet serve` there") from error
        finally:
            self._answer = None
        if answer.code:
            raise RejectedError(answer.code, f"the host refuses: {answer.message}", "ask the fleet's operator")
        return answer.certificate

    async def _try(self, present: Pair, key: ec.EllipticCurvePrivateKey, answered: str) -> None:
        untried = await asyncio.to_thread(self._certificate.check, present, key, answered)
        await self._check_accepted(untried)
        await asyncio.to_thread(self._certificate.accept)

    async def _check_accepted(self, settings: BrokerSettings) -> None:
        """Check that the broker accepts a certificate.

        Raises:
            TransportError: `broker-refused`.
        """
        url = settings.url
        try:
            context = await asyncio.to_thread(tls_context, settings, self._late_floor())
            await tls.check_accepted(url.host, url.port, context)
        except OSError as error:
            message = f"{url} doesn't accept the renewed certificate: {error}"
            raise TransportError("broker-refused", message, "the present one stays; the agent tries again") from error
