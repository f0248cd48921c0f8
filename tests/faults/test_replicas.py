"""Hosts that share a PostgreSQL are killed in turn, and the database, too, while devices fetch and report.

No report that the broker acknowledged to a device may be lost, and every device gets its release.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from pathlib import Path

import aiomqtt
import numpy as np
import pytest

from edgeml import repository
from edgeml.fleet.leadership import TURN_EVERY_S, hosts
from edgeml.fleet.registry import Registry
from edgeml_core import broker as broker_urls
from edgeml_core import messages
from edgeml_core.messages import Report, Topics
from support import brokers, postgresql
from support.delivery_site import FLEET
from support.light_agents import LightAgent, connected, fetch_all, published
from support.programs import Program, host_command
from support.scale import scaled
from support.waiting import until, until_async

pytestmark = [pytest.mark.anyio, pytest.mark.nightly]

DEVICES = [f"pi-{number}" for number in range(8)]
KILLS = scaled(16, 4)
#: Of all kills: one of the database instead of a host.
DATABASE_EVERY = 4
#: Seconds for the lock, the next turn, the connection and the session's messages; a loaded computer takes its time.
TAKEOVER_MAX_S = TURN_EVERY_S + 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Reporter:
    """Sends numbered reports of all devices, and notes those that the broker acknowledged."""

    def __init__(self, port: int, deployment: str) -> None:
        self.acknowledged: dict[str, list[str]] = {device: [] for device in DEVICES}
        self._port = port
        self._deployment = deployment

    async def run(self) -> None:
        """Report until cancelled, three times a second, so that a history keeps those of an outage."""
        topics = Topics(FLEET)
        async with aiomqtt.Client("127.0.0.1", self._port) as client:
            for number in range(10_000):
                for device in DEVICES:
                    # The number stands in a field that counts, the state is another one each time.
                    sent = Report(
                        deployment=self._deployment,
                        name="tiny",
                        version="1.0",
                        state=f"number {number}",
                        session=1,
                        done_bytes=number,
                    )
                    await client.publish(topics.report(device), messages.encode(sent), qos=1)
                    self.acknowledged[device].append(sent.state)
                await asyncio.sleep(0.3)


class Hosts:
    """Two hosts as programs."""

    def __init__(self, folder: Path, repo: Path, broker_url: str, database_url: str) -> None:
        self._command = (*host_command(repo, broker_url), "--database", database_url)
        self._folder = folder
        self.running = [self._start(0), self._start(1)]

    def _start(self, number: int) -> Program:
        return Program(self._folder / f"host-{number}.log", *self._command)

    def kill(self, number: int) -> None:
        """Kill one, and start it again."""
        self.running[number].kill()
        self.running[number] = self._start(number)

    def end(self) -> None:
        """Kill all."""
        for program in self.running:
            program.kill()


async def test_no_acknowledged_report_is_lost(tmp_path: Path) -> None:
    """Kills at random, some of the leader, some of the database; a host leads again within a bounded time."""
    seed = int(os.environ.get("EDGEML_FAULTS_SEED", "1"))
    print(f"EDGEML_FAULTS_SEED={seed}")
    random = np.random.default_rng(seed)
    with postgresql.postgresql() as server, brokers.mosquitto(tmp_path / "broker") as broker:
        release = published(tmp_path / "repo", DEVICES, weights_bytes=4_000_000)
        (deployment,) = repository.opened(tmp_path / "repo").document().deployments
        registry = Registry(server.url)
        serving = Hosts(tmp_path, tmp_path / "repo", broker.url, server.url)
        try:
            await asyncio.to_thread(until, lambda: "announced" in logs(tmp_path), "the announcement")
            reporter = Reporter(broker_urls.parse(broker.url).port, deployment.id)
            reporting = asyncio.create_task(reporter.run())
            recorded: dict[str, set[str]] = {device: set() for device in DEVICES}
            watching = asyncio.create_task(watch(registry, recorded))
            agents = [LightAgent(tmp_path / "devices", name, broker.url) for name in DEVICES]
            async with connected(agents):
                fetching = asyncio.create_task(fetch_all(agents, release))
                slowest_s = 0.0
                for number in range(KILLS):
                    await asyncio.sleep(float(random.uniform(1.0, 6.0)))
                    if number % DATABASE_EVERY == DATABASE_EVERY - 1:
                        await asyncio.to_thread(server.kill)
                        await asyncio.sleep(float(random.uniform(0.0, 3.0)))
                        await asyncio.to_thread(server.start)
                    else:
                        await asyncio.to_thread(serving.kill, int(random.integers(2)))
                    slowest_s = max(slowest_s, await recording_again_s(reporter, recorded))
                await fetching
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            await until_async(lambda: not missing(reporter, recorded), "the last reports")
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            print(f"{KILLS} kills, {sum(map(len, reporter.acknowledged.values()))} reports, {slowest_s:.1f} s at most")
            assert slowest_s < TAKEOVER_MAX_S
            for program in serving.running:
                program.process.send_signal(signal.SIGTERM)
            await until_async(lambda: hosts(registry.database) == [], "the end of both hosts")
        finally:
            serving.end()
            registry.close()
    assert not re.search(r"Traceback|internal-error", logs(tmp_path)), logs(tmp_path)


async def watch(registry: Registry, recorded: dict[str, set[str]]) -> None:
    """Read the history of all devices before it is overwritten."""
    while True:
        for device in DEVICES:
            with contextlib.suppress(Exception):
                changes = await asyncio.to_thread(registry.history, device, "report")
                recorded[device].update(it.message.state for it in changes)
        await asyncio.sleep(0.1)


async def recording_again_s(reporter: Reporter, recorded: dict[str, set[str]]) -> float:
    """Wait until a report that was acknowledged after the call is recorded; return how long that took."""
    begun_s, (device, *_) = time.monotonic(), DEVICES
    last = reporter.acknowledged[device][-1]
    await until_async(lambda: reporter.acknowledged[device][-1] != last, "another report")
    newest = reporter.acknowledged[device][-1]
    await until_async(lambda: newest in recorded[device], "the report")
    return time.monotonic() - begun_s


def missing(reporter: Reporter, recorded: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return the acknowledged reports of each device that aren't recorded."""
    found = {
        device: [it for it in sent if it not in recorded[device]] for device, sent in reporter.acknowledged.items()
    }
    return {device: lost for device, lost in found.items() if lost}


def logs(folder: Path) -> str:
    """Return what the hosts have printed."""
    return "".join(it.read_text() for it in sorted(folder.glob("host-*.log")))
