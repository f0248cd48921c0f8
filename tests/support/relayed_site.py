"""A site of many devices behind a relay: two real brokers, the host and the relay processes, the devices in this one.

The devices are the agent's real shell, link, trust, store and files; only their probe and their server are in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeml import repository
from edgeml.fleet import status
from edgeml.repository import broker_config
from edgeml.repository.deployments import deploy
from edgeml_agent import settings
from edgeml_agent.link.link import MqttLink
from edgeml_agent.link.signed_files import BlockingFiles
from edgeml_agent.probe.remote_calls import Calls
from edgeml_agent.store.database import Store
from edgeml_agent.store.releases import Releases
from edgeml_agent.system.clock import SystemClock
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.trust.trust import Trust
from edgeml_agent.update.agent import Agent, Ports
from edgeml_agent.update.daemon import Daemon
from edgeml_agent.update.reporter import Reporter
from edgeml_runtime.hardware import board
from support import brokers
from support.counting_proxy import Counter, counting
from support.delivery_site import FLEET, MODEL
from support.fakes import MemoryProber, MemoryServer
from support.programs import Program, Programs, agent_command, host_command, listen_at, programs
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until, until_async

SITE = "barn"
RELAY = "relay-1"
#: All devices are enrolled with it, the relay is not.
GROUP = "secret"
#: Each blocks while it waits for a signed file.
THREADS = 64
PERSISTENT = "persistence true\nautosave_interval 1"


def address(user: str, port: int) -> str:
    """Where `user` connects; a broker that takes anyone doesn't look at the password."""
    return f"mqtt://{user}:{user}-secret@127.0.0.1:{port}"


def shipped_rights(folder: Path, users: Sequence[str]) -> str:
    """The configuration of a broker with a user for each client, and the rules of `fleet broker-config`."""
    folder.mkdir(parents=True)
    (folder / "passwords").touch(mode=0o600)
    for user in users:
        command = [shutil.which("mosquitto_passwd") or "", "-b", folder / "passwords", user, f"{user}-secret"]
        subprocess.run(command, check=True)
    clients = [("origin", "host"), ("operator", "operator"), ("relay-1", "relay")]
    (folder / "acl").write_text(broker_config.access_list(FLEET, clients, []))
    files = f"password_file {folder}/passwords\nacl_file {folder}/acl"
    return f"allow_anonymous false\nuse_username_as_clientid true\n{files}"


class SiteDevice:
    """One device on the broker at `port`, from the folder that enrolling it made."""

    def __init__(self, folder: Path, port: int) -> None:
        found = settings.load(folder / "agent.toml", {"EDGEML_BROKER_URL": address(folder.name, port)})
        machine, clock = board.this_machine(), SystemClock()
        self.store, self.server = Store(found.store.dir), MemoryServer()
        self.link = MqttLink(found.broker, found.device, self.store.next_session)
        files = BlockingFiles(self.link.files, asyncio.get_running_loop())
        self.trust = Trust(found.trust.root, found.store.dir, files, found.device)
        releases, prober = Releases(found.store.dir, 1 << 40), MemoryProber()
        reporter = Reporter(self.link, machine, self.store, clock, serving=self.server.manifests)
        ports = Ports(
            trust=self.trust,
            chunks=self.link.chunks,
            store=self.store,
            releases=releases,
            prober=prober,
            server=self.server,
            clock=clock,
            groups=GroupKeys(found.trust.groups),
        )
        agent = Agent(found.device.id, machine, ports, reporter)
        calls = Calls(self.link, releases, prober, doctor=tuple, restart=lambda: None)
        self.daemon = Daemon(
            agent, self.link, self.store, reporter, calls=calls, clock=clock, folder=found.store.dir
        )  # fmt: skip

    def serves(self, version: str) -> bool:
        """Whether a version answers."""
        return version in self.server.live.values()


@contextlib.asynccontextmanager
async def running(folders: Sequence[Path], port: int) -> AsyncIterator[list[SiteDevice]]:
    """Devices that run."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    devices = [SiteDevice(folder, port) for folder in folders]
    tasks = [asyncio.create_task(device.daemon.run()) for device in devices]
    try:
        yield devices
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for device in devices:
            device.store.close()


async def serving(devices: Sequence[SiteDevice], version: str, timeout_s: float = 5 * TIMEOUT_S) -> None:
    """Wait until all serve a version."""
    await until_async(lambda: all(device.serves(version) for device in devices), f"all serve {version}", timeout_s)


@dataclass
class RelayedSite:
    """All of one test's parts; the host runs, the relay when it is started."""

    folder: Path
    wide: brokers.Mosquitto
    local: brokers.Mosquitto
    line: Counter
    names: list[str]
    programs: Programs

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

    def release(self, version: str, group: str | None = None, **changes: object) -> str:
        """Publish a version of a tiny model, and deploy it to all; its digest."""
        bundle = self.folder / f"{version}.edgeml"
        tiny_onnx_bundle(bundle, name=MODEL, version=version, **changes)
        return self.publish(bundle, group)

    def publish(self, bundle: Path, group: str | None = None) -> str:
        """Publish a bundle, and deploy it to all; its digest."""
        (published,) = repository.publish(self.repo, [bundle], group=group)
        deploy(self.repo, published.name, published.version, selector="")
        return published.manifest_sha256

    def start_relay(self) -> Program:
        """`edgeml-agent run` of a device with `[relay]`."""
        return self.programs.start(self.folder / "relay.log", *agent_command(self.device(RELAY) / "agent.toml"))

    def start_host(self) -> Program:
        """`edgeml fleet serve`."""
        command = host_command(self.repo, address("origin", self.wide.port))
        return self.programs.start(self.folder / "host.log", *command)

    def enroll(self) -> None:
        """Make the repository and its devices."""
        repository.init(self.repo, fleet=FLEET)
        for name in (*self.names, RELAY, "alone"):
            labels = {} if name == "alone" else {"site": SITE}
            url = address(name, self.line.port)
            groups = [] if name == RELAY else [GROUP]
            repository.enroll(self.repo, name, labels=labels, groups=groups, broker_url=url, out_dir=self.device(name))
        config = listen_at(self.device(RELAY) / "agent.toml")
        config.write_text(f'{config.read_text()}\n[relay]\nurl = "{address("origin", self.local.port)}"\n')


@contextmanager
def relayed_site(folder: Path, devices: int, *, has_rights: bool = False) -> Iterator[RelayedSite]:
    """A site; its devices' folders are enrolled, as is one device without a site."""
    names = [f"board-{number}" for number in range(devices)]
    wide_rules, local_rules = brokers.OPEN, brokers.OPEN
    if has_rights:
        wide_rules = shipped_rights(folder / "wide", ["origin", "operator", RELAY])
        local_rules = shipped_rights(folder / "local", ["origin", *names])
    with (
        brokers.mosquitto(folder / "wide", f"{wide_rules}\n{PERSISTENT}") as wide,
        brokers.mosquitto(folder / "local", local_rules) as local,
        counting(wide.port) as line,
        programs() as started,
    ):
        made = RelayedSite(folder, wide, local, line, names, started)
        made.enroll()
        host = made.start_host()
        until(lambda: "announced" in host.log.read_text(), "the announcement")
        yield made


async def update_one(site: RelayedSite, version: str) -> int:
    """The bytes that a device alone takes from its start until it serves."""
    before = site.line.passed_bytes
    async with running([site.device("alone")], site.line.port) as devices:
        await serving(devices, version)
        await asyncio.sleep(1.0)
        return site.line.passed_bytes - before


async def update_all(site: RelayedSite, version: str) -> int:
    """The bytes that the site takes from the start of its relay and devices until all serve and have said so."""
    before = site.line.passed_bytes
    relay = site.start_relay()
    async with running([site.device(name) for name in site.names], site.local.port) as devices:
        await serving(devices, version)
        await asyncio.to_thread(until, lambda: has_told(site, version), "all reports")
        passed_bytes = site.line.passed_bytes - before
    relay.stop()
    return passed_bytes


def has_told(site: RelayedSite, version: str, names: Sequence[str] = ()) -> bool:
    """Return whether the host has reports of a version from devices of the site: those named, or all."""
    reported = {it.id: it.models.values() for it in status.devices(site.repo) if it.labels.get("site") == SITE}
    return all(version in {model.version for model in reported[name]} for name in names or reported)
