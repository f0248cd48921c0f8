"""`edgeml-agent doctor`: find problems of this host that would keep the agent from working, and their remedies.

`edgeml_runtime.hardware.diagnostics` has the checks that a host needs too. Nothing is changed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edgeml_agent.link import link_state
from edgeml_agent.link.acl_check import AclCheck
from edgeml_agent.link.certificate import DeviceCertificate
from edgeml_agent.link.session import session
from edgeml_agent.settings import BrokerSettings, DeviceSettings, Settings
from edgeml_agent.store import locks
from edgeml_core import records
from edgeml_core.calls import Check
from edgeml_core.errors import EdgemlError, RejectedError, TransportError
from edgeml_core.messages import Topics
from edgeml_io.mqtt import MqttError
from edgeml_runtime.hardware import diagnostics
from edgeml_runtime.hardware.diagnostics import python_problem

#: Degrees Celsius from which the temperature is a warning: boards throttle from 80 to 85.
HOT_CELSIUS: Final = 80.0
#: Modules that the agent must never load: training libraries and the host's command line.
HOST_LIBRARIES: Final = ("torch", "transformers", "onnx", "optimum", "click")


def run(settings: Settings | None) -> tuple[Check, ...]:
    """Run all checks; without settings, those that need none. A failed check doesn't stop the others."""
    return tuple(_checks(settings))


def _checks(settings: Settings | None) -> Iterator[Check]:
    yield from diagnostics.machine()
    yield diagnostics.disk(settings.store.dir if settings else Path())
    yield purity()
    yield heat(Path("/sys/class/thermal"))
    if settings and settings.broker.cert:
        yield certificate(DeviceCertificate(settings.broker, settings.store.dir), datetime.now(UTC))
    if settings and locks.is_held(settings.store.dir / locks.AGENT):
        yield connection_of_agent(settings)
    elif settings:
        newest = DeviceCertificate(settings.broker, settings.store.dir).settings()
        yield from broker(newest, settings.device, requests=settings.serve.mqtt)


def purity() -> Check:
    """Check that the agent's own code loads no training library."""
    code = (
        "import sys, edgeml_agent.update.agent, edgeml_agent.http_api.app;"
        f"loaded = sys.modules.keys() & {set(HOST_LIBRARIES)!r};"
        "sys.exit('it loads ' + ', '.join(sorted(loaded)) if loaded else 0)"
    )
    problem = python_problem(code)
    if problem is None:
        return Check("imports", "ok", "the agent loads no training library")
    return Check("imports", "failed", f"importing the agent {problem}", "reinstall edgeml in a fresh environment")


def heat(zones: Path) -> Check:
    """Check the hottest sensor below `zones`, if there is one."""
    celsius = max((value for path in zones.glob("thermal_zone*/temp") if (value := _celsius(path))), default=None)
    if celsius is None:
        return Check("temperature", "ok", "no sensor can be read")
    if celsius >= HOT_CELSIUS:
        return Check("temperature", "warning", f"{celsius:.0f} C", "cool the board: it throttles at this temperature")
    return Check("temperature", "ok", f"{celsius:.0f} C")


def certificate(own: DeviceCertificate, now: datetime) -> Check:
    """Check the times of the certificate that the next connection uses."""
    present = own.present()
    if present is None:
        return Check("certificate", "ok", f"{own.settings().cert} isn't of a kind that edgeml renews")
    ends = present.certificate.not_valid_after_utc
    if now > ends:
        remedy = "get a token of this device from the fleet's operator, and run `edgeml-agent enroll`"
        return Check("certificate", "failed", f"it has expired on {ends:%Y-%m-%d}", remedy)
    if own.is_due(present.certificate, now):
        remedy = "let the agent run, and `edgeml fleet serve` on the host: both renew it"
        return Check("certificate", "warning", f"it ends on {ends:%Y-%m-%d}, and its renewal is due", remedy)
    return Check("certificate", "ok", f"until {ends:%Y-%m-%d}")


def connection_of_agent(settings: Settings) -> Check:
    """Check the connection of the agent that runs here, as it has recorded it: a second one would end it."""
    state, url = link_state.read(settings.store.dir), str(settings.broker.url)
    if state is None:
        return Check("broker", "warning", "the agent runs and has recorded no connection", "read its log")
    since = f"since {datetime.fromtimestamp(state.since_s, UTC):%Y-%m-%d %H:%M} UTC"
    if state.broker != url:
        detail = f"the running agent uses {state.broker}, agent.toml names {url}"
        return Check("broker", "warning", detail, "restart the agent")
    if state.code:
        return Check("broker", "failed", f"the running agent, {since}: {state.message}", state.hint)
    if not state.connected:
        return Check("broker", "warning", f"the running agent connects to {url} {since}", "repeat the command")
    return Check("broker", "ok", f"{url} accepts this device: the running agent is connected {since}")


def broker(settings: BrokerSettings, device: DeviceSettings, *, requests: bool = False) -> Iterator[Check]:
    """Check that the MQTT broker answers, accepts this device, permits the topics that it needs, and has its record.

    Args:
        requests: whether the device serves the inference API over MQTT.
    """
    try:
        record = asyncio.run(_visit(settings, device, requests=requests))
    except TransportError as error:
        yield Check("broker", "failed", f"{settings.url}: {error.message}", error.hint)
    except (MqttError, EdgemlError, OSError) as error:
        remedy = "check that the broker runs, [broker] url and its credentials and, with mqtts, ca, cert and key"
        yield Check("broker", "failed", f"{settings.url}: {error}", remedy)
    else:
        yield Check("broker", "ok", f"{settings.url} accepts this device")
        yield _record(Topics(device.fleet).record(device.id), record)


def _record(topic: str, record: bytes) -> Check:
    """Check the record that the broker retains; the agent verifies its signatures."""
    if not record:
        remedy = f"start `edgeml fleet serve`, and let this device read {topic} at the broker"
        return Check("record", "warning", "the broker has no record of this device: new labels don't arrive", remedy)
    try:
        found = records.decode(record).signed
    except RejectedError as error:
        return Check("record", "failed", error.message, f"let the fleet's host alone write {topic}")
    labels = ",".join(f"{key}={value}" for key, value in found.labels.items()) or "no labels"
    return Check("record", "ok", f"version {found.version} with {labels}{', revoked' if found.revoked else ''}")


async def _visit(settings: BrokerSettings, device: DeviceSettings, *, requests: bool) -> bytes:
    """Connect, try every right, and return the device's record; nothing if the broker sends none meanwhile."""
    topics, record = Topics(device.fleet), b""
    async with session(settings, f"{device.id}-doctor").connected() as connection:
        check = AclCheck(topics, device.id, requests=requests)

        async def receive() -> None:
            nonlocal record
            async for message in connection:
                if check.is_echo(message):
                    check.on_echo(message)
                elif message.topic == topics.record(device.id):
                    record = message.payload

        await connection.subscribe([(topics.record(device.id), 1)])

        receiving = asyncio.create_task(receive())
        try:
            await check.run(connection)
        finally:
            receiving.cancel()
    return record


def _celsius(path: Path) -> float | None:
    """Return a sensor's reading, which Linux gives in thousandths; None if it can't be read."""
    try:
        return int(path.read_text()) / 1000
    except (OSError, ValueError):
        return None
