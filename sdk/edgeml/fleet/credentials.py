"""Certificates while the host serves: renewals that devices request over MQTT, and connections of revoked ones ended.

A revoked certificate opens no new connection, since the broker reads the list of revoked ones at each. The connection
that is open ends when the host takes its place for a moment: a broker has one connection for each client id. Issuing
and revoking are left to `edgeml.repository.client_certificates`.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edgeml.fleet.link import Broker, session
from edgeml.fleet.recorder import Events
from edgeml.repository import (
    RepositoryFolder,
    broker_config,
    broker_folder,
    certificates,
    client_certificates,
    device_ca,
    layout,
)
from edgeml.repository.certificates import Holder
from edgeml_core.enrollment import RenewAnswer
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_io import files
from edgeml_io.mqtt import MqttError

#: Seconds between two looks for revoked certificates whose connections are open.
REVOKED_EVERY_S: Final = 1.0
#: Seconds until the host tries again to end a connection.
RETRY_S: Final = 15.0
#: Seconds between two looks whether the host's own certificates are due.
OWN_EVERY_S: Final = 3600.0
#: Requests that wait: devices renew once in half a year, and ask again on the next day.
QUEUE_MAX: Final = 1000
#: Seconds between two answers to one device: a certificate costs a signature and a record.
DEVICE_EVERY_S: Final = 60.0
#: Days of the certificate with which the host takes the place of a revoked one; it is used at once.
_TAKEOVER_DAYS: Final = 1
_SECRET_MODE: Final = 0o600


class Credentials:
    """The certificates of one fleet's clients.

    Args:
        repository: opened; its authority's key is needed to renew and to end connections.
        events: receives renewals, refusals and ended connections.
    """

    def __init__(self, repository: RepositoryFolder, events: Events) -> None:
        self._repository = repository
        self._events = events
        self._requests: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(QUEUE_MAX)
        #: When each device was last answered; bounded by the devices of the fleet.
        self._answered_s: dict[str, float] = {}
        #: Names whose connections can't be ended now, and the time of the next attempt.
        self._retry_s: dict[str, float] = {}

    def put(self, device: str, payload: bytes) -> None:
        """Queue a device's request; those that come too often are left out."""
        now_s = time.monotonic()
        is_early = now_s - self._answered_s.get(device, -math.inf) < DEVICE_EVERY_S
        if not is_early and not self._requests.full():
            self._answered_s[device] = now_s
            self._requests.put_nowait((device, payload))

    async def answer(self, publish: Callable[[str, bytes], Awaitable[object]]) -> NoReturn:
        """Answer the queued requests by `publish`, which takes a device and a payload.

        Raises:
            MqttError: the connection is lost.
        """
        while True:
            device, payload = await self._requests.get()
            await publish(device, msgspec.json.encode(await asyncio.to_thread(self._renew, device, payload)))

    def _renew(self, device: str, payload: bytes) -> RenewAnswer:
        try:
            if self._repository.authorities.asks(device_ca.DEVICE_CA):
                message = "the authority's key is locked"
                raise UsageError("repo-invalid", message, "restart `edgeml fleet serve`, and type the passphrase")
            issued = client_certificates.renew(self._repository, device, payload, layout.utc_now())
        except EdgemlError as error:
            text = f"didn't renew the certificate of {device}: error[{error.code}]: {error.message}"
            self._events.event("renew-refused", text, device=device, **error.to_dict())
            message = "the host can't issue certificates now" if error.code == "repo-invalid" else error.message
            return RenewAnswer(code=error.code, message=message)
        self._events.event("renewed", f"renewed the certificate of {device}", device=device)
        return RenewAnswer(certificate=issued.decode())

    async def run(self, broker: Broker) -> NoReturn:
        """End the connections of revoked certificates, renew the host's own, and tell when a broker's is due."""
        own_s = -math.inf
        while True:
            try:
                if time.monotonic() - own_s > OWN_EVERY_S and broker.cert is not None:
                    own_s = time.monotonic()
                    await asyncio.to_thread(self._renew_own)
                for name in await asyncio.to_thread(self._revoked_names):
                    await self._disconnect(name, broker)
            except EdgemlError as error:
                self._events.event("certificates-failed", error.message, **error.to_dict())
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(REVOKED_EVERY_S)

    def _revoked_names(self) -> list[str]:
        """Return the names whose connections are to be ended, once the brokers have the list of their certificates."""
        if not self._repository.enrollments.connected_names():
            return []
        with self._repository.locked():  # the command that revokes holds it until then
            return self._repository.enrollments.connected_names()

    def _renew_own(self) -> None:
        now = layout.utc_now()
        client_certificates.own_certificate(self._repository, broker_config.HOST_NAME, "host", now)
        with self._repository.locked():
            client_certificates.refresh_brokers(self._repository, now)
        for text in broker_folder.brokers_due(self._repository, now):
            self._events.event("certificate-due", text)
        for text in broker_folder.unreadable(self._repository):
            self._events.event("broker-folder-unreadable", text)

    async def _disconnect(self, name: str, broker: Broker) -> None:
        """End the connection of a name whose certificate was revoked."""
        if self._retry_s.get(name, -math.inf) > time.monotonic():
            return
        if broker.cert is None:
            text = f"revoked the certificate of {name}; the broker has users with passwords: remove this one there"
        else:
            try:
                await self._take_over(name, broker)
            except (MqttError, OSError) as error:
                if name not in self._retry_s:
                    text = f"the connection of {name}, whose certificate is revoked, can't be ended yet: {error}"
                    self._events.event("revoke-failed", text, device=name, message=str(error))
                self._retry_s[name] = time.monotonic() + RETRY_S
                return
            text = f"ended the connection of {name}, whose certificate is revoked"
        self._retry_s.pop(name, None)
        await asyncio.to_thread(self._repository.enrollments.set_disconnected, name)
        self._events.event("revoked", text, device=name)

    async def _take_over(self, name: str, broker: Broker) -> None:
        """Connect under a client's name for a moment; its connection ends, and its session is forgotten."""
        fleet = self._repository.fleet_name
        with tempfile.TemporaryDirectory() as folder:
            certificate = Path(folder, "takeover.pem")
            await asyncio.to_thread(self._write_takeover, name, certificate)
            as_name = Broker(url=broker.url, ca=broker.ca, cert=certificate)
            async with session(as_name, f"edgeml-{fleet}-{name}", is_lasting=False).connected():
                pass

    def _write_takeover(self, name: str, path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        holder = Holder(name=name, role="host", fleet=self._repository.fleet_name)
        authority = self._repository.authorities.devices()
        issued = authority.issue_client(holder, key.public_key(), layout.utc_now(), _TAKEOVER_DAYS)
        files.write(path, device_ca.key_pem(key) + certificates.pem(issued), mode=_SECRET_MODE)
