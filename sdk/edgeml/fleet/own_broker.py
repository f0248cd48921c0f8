"""`edgeml fleet serve` with its own broker and an address for enrollment, beside the service of the fleet.

One process owns all three: they start in order, and end together. Each is a module of its own.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from edgeml.fleet import enrollment, own_certificate
from edgeml.fleet.broker_process import BrokerProcess
from edgeml.fleet.enrollment import EnrollmentServer
from edgeml.fleet.link import Broker
from edgeml.fleet.recorder import Events
from edgeml.fleet.registry import Registry
from edgeml.fleet.serve import serve_opened
from edgeml.fleet.webhook import Webhook
from edgeml.repository import RepositoryFolder, broker_config, broker_folder, layout, opened, renewal
from edgeml.repository.certificates import check_host_name
from edgeml_core import broker as broker_urls
from edgeml_core.errors import UsageError
from edgeml_io import aio

if TYPE_CHECKING:
    from edgeml.fleet.web.server import Dashboard

#: The folder of the broker, in the repository's.
FOLDER: Final = "broker"
_PORT_MAX: Final = 65_535


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A host's name, as devices reach it, and a port."""

    name: str
    port: int


def parse(text: str, default_port: int) -> Address:
    """Parse `NAME[:PORT]`, or `[ADDRESS]:PORT` for IPv6.

    Raises:
        UsageError: `usage`.
    """
    name, colon, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "")
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) <= _PORT_MAX):
        raise UsageError("usage", f"{text!r} has no port of 1 to {_PORT_MAX}", "write it as NAME or NAME:PORT")
    name = check_host_name(name.removeprefix("[").removesuffix("]"))
    return Address(name=name, port=int(port) if colon else default_port)


def run(serving: Coroutine[Any, Any, NoReturn]) -> None:
    """Run a service as a program: SIGTERM ends it in order."""

    async def until_terminated() -> None:
        service = asyncio.ensure_future(serving)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.cancel)
        await asyncio.wait({service})
        if not service.cancelled():
            service.result()

    asyncio.run(until_terminated())


async def serve(
    repo: Path,
    events: Events,
    *,
    broker: Broker | None,
    own: Address | None,
    enroll: Address | None,
    registry: Registry,
    max_bytes_per_s: int | None = None,
    webhook: Webhook | None = None,
    dashboard: Dashboard | None = None,
) -> NoReturn:
    """Serve a fleet until cancelled, with a broker of its own unless `broker` names one.

    Args:
        repo: the repository's folder.
        events: receives the events of all parts.
        broker: a running broker; None starts Mosquitto.
        own: the name and port of the broker that is started.
        enroll: where devices enroll with a token; None is nowhere, or beside the broker that is started.
        registry: see `edgeml.fleet.serve.serve`.
        max_bytes_per_s, webhook: see there.
        dashboard: is served beside it; None serves none.

    Raises:
        UsageError: as `edgeml.fleet.serve.serve`; `usage`, with the repository's own certificate also beside a
            host that shares the database; `extra-missing`, without Mosquitto.
        TransportError: as there; `broker-unreachable`, when Mosquitto doesn't start.
    """
    repository = opened(repo)
    # There the user's name is the client id: a second host would end the first one's connection.
    is_only = broker is None or own_certificate.is_needed(broker)
    with repository.served(is_shared=registry.database.is_shared and not is_only):
        process = None
        if broker is None or enroll is not None or own_certificate.is_needed(broker):
            await asyncio.to_thread(_unlock, repository)
        if broker is None:
            assert own is not None  # noqa: S101 - the caller has one of both
            process, broker = await _start(repository, own, events)
            enroll = enroll or Address(name=own.name, port=enrollment.DEFAULT_PORT)
        elif own_certificate.is_needed(broker):
            broker = await asyncio.to_thread(own_certificate.broker, repository, broker.url, nodes=broker.nodes)
        try:
            async with asyncio.TaskGroup() as tasks:
                if process is not None:
                    tasks.create_task(process.run())
                if enroll is not None:
                    tasks.create_task(_enroll(repository, broker, enroll, events))
                if dashboard is not None:
                    tasks.create_task(dashboard.run(repository, registry, events, broker))
                serving = serve_opened(
                    repository, broker, events, registry, max_bytes_per_s=max_bytes_per_s, webhook=webhook
                )
                tasks.create_task(serving)
        except BaseExceptionGroup as group:
            aio.raise_first(group)
        finally:
            if process is not None:
                await process.stop()
    raise AssertionError("the tasks never end by themselves")


async def _enroll(repository: RepositoryFolder, broker: Broker, at: Address, events: Events) -> None:
    """Let devices enroll there, until cancelled."""
    known = await asyncio.to_thread(repository.enrollments.address, "broker")
    await EnrollmentServer(repository, known or str(broker.url), events).run(at.name, at.port)


def _unlock(repository: RepositoryFolder) -> None:
    """Open the keys that sign devices and certificates, while a passphrase can be typed: later no task may wait.

    Raises:
        UsageError: `repo-invalid`, when one is missing or locked.
    """
    renewal.unlock(repository)
    repository.authorities.devices()


async def _start(repository: RepositoryFolder, own: Address, events: Events) -> tuple[BrokerProcess, Broker]:
    """Write the broker's configuration, start it, and return how this host reaches it."""
    folder, now = repository.folder / FOLDER, layout.utc_now()

    def write() -> broker_config.BrokerSettings:
        with repository.locked():
            settings = broker_folder.write(repository, folder, (own.name,), now, port=own.port)
            repository.enrollments.set_address("broker", broker_folder.address(settings))
            return settings

    process = BrokerProcess(folder, await asyncio.to_thread(write), events)
    await process.start()
    events.event("broker-started", f"Mosquitto listens on port {own.port} for {own.name}", port=own.port)
    url = broker_urls.parse(f"mqtts://127.0.0.1:{own.port}")
    return process, await asyncio.to_thread(own_certificate.broker, repository, url)
