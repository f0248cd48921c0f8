"""A site of many devices behind a relay: two real brokers, the host and the relay processes, the devices in this one.

The devices are the agent's real shell, link, trust, store and files; only their probe and their server are in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgeml import repository
from edgeml.fleet.deploy import deploy
from edgeml_agent import settings
from edgeml_agent.agent import Agent, Ports
from edgeml_agent.calls import Calls
from edgeml_agent.daemon import Daemon
from edgeml_agent.link import MqttLink
from edgeml_agent.releases import Releases
from edgeml_agent.run import SystemClock
from edgeml_agent.signed_files import BlockingFiles
from edgeml_agent.store import Store
from edgeml_agent.telling import Telling
from edgeml_agent.trust import Trust
from edgeml_runtime import board
from fakes import MemoryProber, MemoryServer
from integration import brokers
from integration.counted_line import Counter, counting
from integration.delivery_site import FLEET, MODEL, TIMEOUT_S, Program, until
from tiny_models import tiny_onnx_bundle

SITE = "barn"
RELAY = "relay-1"
#: Each blocks while it waits for a signed file.
THREADS = 64
PERSISTENT = f"{brokers.OPEN}\npersistence true\nautosave_interval 1"


class SiteDevice:
    """One device on the broker at `url`, from the folder that enrolling it made."""

    def __init__(self, folder: Path, url: str) -> None:
        found = settings.load(folder / "agent.toml", {"EDGEML_BROKER_URL": url})
        machine, clock = board.this_machine(), SystemClock()
        self.store, self.server = Store(found.store.dir), MemoryServer()
        self.link = MqttLink(found.broker, found.device, self.store.next_session)
        self.trust = Trust(found.trust.root, found.store.dir, BlockingFiles(self.link.file, asyncio.get_running_loop()))
        releases, prober = Releases(found.store.dir, 1 << 40), MemoryProber()
        telling = Telling(self.link, machine, self.store, releases, clock)
        ports = Ports(
            trust=self.trust,
            chunks=self.link,
            store=self.store,
            releases=releases,
            prober=prober,
            server=self.server,
            clock=clock,
        )
        agent = Agent(found.device.id, machine, ports, telling)
        calls = Calls(self.link, releases, prober)
        self.daemon = Daemon(
            agent, self.link, self.store, telling, calls=calls, clock=clock, folder=found.store.dir
        )  # fmt: skip

    def serves(self, version: str) -> bool:
        """Whether a version answers, and the device has said so."""
        return self.server.live.get(MODEL) == version


@contextlib.asynccontextmanager
async def running(folders: Sequence[Path], url: str) -> AsyncIterator[list[SiteDevice]]:
    """Devices that run."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    devices = [SiteDevice(folder, url) for folder in folders]
    tasks = [asyncio.create_task(device.daemon.run()) for device in devices]
    try:
        yield devices
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for device in devices:
            device.store.close()


async def serving(devices: Sequence[SiteDevice], version: str, timeout_s: float = 2 * TIMEOUT_S) -> None:
    """Wait until all serve a version."""
    async with asyncio.timeout(timeout_s):
        while not all(device.serves(version) for device in devices):  # noqa: ASYNC110 - it stands in their servers
            await asyncio.sleep(0.05)


@dataclass
class RelayedSite:
    """All of one test's parts; the host runs, the relay when it is started."""

    folder: Path
    wide: brokers.Mosquitto
    local: brokers.Mosquitto
    line: Counter
    names: list[str]
    programs: list[Program] = field(default_factory=list)

    @property
    def repo(self) -> Path:
        """The repository."""
        return self.folder / "repo"

    @property
    def log(self) -> str:
        """What the relay has said."""
        return (self.folder / "relay.log").read_text()

    def device(self, name: str) -> Path:
        """The folder that enrolling a device made."""
        return self.folder / "devices" / name

    def release(self, version: str, **changes: object) -> str:
        """Publish a version of a tiny model, and deploy it to all; its digest."""
        bundle = self.folder / f"{version}.edgeml"
        tiny_onnx_bundle(bundle, name=MODEL, version=version, **changes)
        (published,) = repository.publish(self.repo, [bundle])
        deploy(self.repo, MODEL, version, selector={})
        return published.manifest_sha256

    def start_relay(self) -> Program:
        """`edgeml-agent run` of a device with `[relay]`."""
        config = self.device(RELAY) / "agent.toml"
        return self._start("relay", "edgeml_agent", "run", "--config", str(config))

    def _start(self, name: str, *module: str) -> Program:
        self.programs.append(Program(self.folder / f"{name}.log", "-m", *module))
        return self.programs[-1]

    def _enroll(self) -> None:
        repository.init(self.repo, fleet=FLEET)
        for name in (*self.names, RELAY, "alone"):
            labels = {} if name == "alone" else {"site": SITE}
            url = f"mqtt://127.0.0.1:{self.line.port}"
            repository.enroll(self.repo, name, labels=labels, broker_url=url, out_dir=self.device(name))
        config = self.device(RELAY) / "agent.toml"
        text = re.sub(r'http = ".*"', 'http = "127.0.0.1:0"', config.read_text())
        config.write_text(f'{text}\n[relay]\nurl = "{self.local.url}"\n')


@contextmanager
def relayed_site(folder: Path, devices: int) -> Iterator[RelayedSite]:
    """A site; its devices' folders are enrolled, as is one device without a site."""
    names = [f"board-{number}" for number in range(devices)]
    with (
        brokers.mosquitto(folder / "wide", PERSISTENT) as wide,
        brokers.mosquitto(folder / "local") as local,
        counting(wide.port) as line,
    ):
        made = RelayedSite(folder, wide, local, line, names)
        made._enroll()
        made._start("host", "edgeml", "fleet", "serve", "--repo", str(made.repo), "--broker", wide.url)
        try:
            until(lambda: "announced" in (folder / "host.log").read_text(), "the announcement")
            yield made
        finally:
            for program in made.programs:
                program.process.kill()
                program.process.wait()
