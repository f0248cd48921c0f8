"""The reports that one host records in a second: one of each device, sent as fast as the broker acknowledges them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from edgeml.fleet.registry import Registry
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import broker as broker_urls
from edgeml_core import messages
from edgeml_core.lifecycle import State
from edgeml_core.messages import Report, Topics
from edgeml_io.mqtt import Options, Session
from fleet_parts.site import BROKER, MODEL, TIMEOUT_S, made, names_of, usage
from harness import host
from harness.figures import Figure, Run
from support import brokers, light_agents

DEVICES: Final = 5_000
QUICK_DEVICES: Final = 50
#: Messages without an acknowledgement: Mosquitto takes 20 at a time.
IN_FLIGHT: Final = 16
_LOOK_EVERY_S: Final = 0.1


def figures(run: Run) -> Iterator[Figure]:
    """Yield the rate, and the CPU time of each report."""
    devices, folder = run.size(DEVICES, QUICK_DEVICES), run.folder / "reports"
    folder.mkdir()
    of = made(folder / "repo", devices)
    [deployment] = of.document().deployments
    registry = Registry(folder / "repo" / DATABASE_FILE)
    with (
        brokers.mosquitto(folder / "broker", BROKER) as broker,
        light_agents.host(folder / "repo", broker.url) as it,
        host.watching() as watch,
    ):
        before, begun_s = usage(it.process.pid), time.monotonic()
        asyncio.run(_report(broker.url, of.fleet_name, names_of(devices), deployment.id))
        sent_s = time.monotonic() - begun_s
        while len(registry.reports(deployment.id)) < devices:
            if time.monotonic() - begun_s > TIMEOUT_S:
                raise RuntimeError(f"not all of {devices} reports were recorded within {TIMEOUT_S} s")
            time.sleep(_LOOK_EVERY_S)
        took_s = time.monotonic() - begun_s
        spent_s = usage(it.process.pid).cpu_s - before.cpu_s
    registry.close()
    yield Figure(
        name="reports that one host records",
        value=devices / took_s,
        unit="reports/s",
        host=watch.load,
        note=f"{devices:,} reports, acknowledged to the devices in {sent_s:.2f} s",
    )
    yield Figure(name="host: CPU of a report", value=spent_s / devices * 1000, unit="ms", host=watch.load)


async def _report(url: str, fleet: str, devices: list[str], deployment: str) -> None:
    topics, waiting = Topics(fleet), iter(devices)
    session = Session(broker_urls.parse(url), "benchmark", Options(is_lasting=False, inbox_max_messages=16))
    async with session.connected() as connection:

        async def publish() -> None:
            for device in waiting:
                report = Report(deployment=deployment, name=MODEL, version="1.0", state=State.ACTIVE, session=1)
                await connection.publish(topics.report(device), messages.encode(report), qos=1)

        await asyncio.gather(*(publish() for _ in range(IN_FLIGHT)))
