"""`edgeml-agent install`: from a stick, with no broker; judged by the same trust, on the same way as over the network.

A repository's folder brings its own signed metadata and says what this device should run. A bare bundle is taken when
the metadata that this device trusts already lists it. What is installed answers at once where an agent runs, else when
one starts, and until the fleet makes another deployment.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgeml_agent.main import SystemClock
from edgeml_agent.offline.sources import BundleChunks, BundleFiles, FolderChunks, FolderFiles, FolderTargets
from edgeml_agent.ports import ChunkSource, ShadowPolicy, TrustSource
from edgeml_agent.probe.prober import ChildProber
from edgeml_agent.settings import Settings
from edgeml_agent.store import locks
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import Releases
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.trust.trust import HeldFiles, Trust
from edgeml_agent.update.agent import Agent, Ports
from edgeml_agent.update.reporter import Reporter
from edgeml_core.bundle import BundleReader
from edgeml_core.desired import Deployment, Wanted
from edgeml_core.errors import RejectedError, TransportError, UsageError
from edgeml_core.lifecycle import State
from edgeml_core.manifest import Manifest
from edgeml_core.messages import DeviceState, Report
from edgeml_runtime.hardware import board


class Silence:
    """A `StatusSink` that nobody hears."""

    def show(self, state: DeviceState) -> None:
        """See `StatusSink.show`."""

    def report(self, report: Report) -> None:
        """See `StatusSink.report`."""


class NotServing:
    """A `ModelServer` for when nothing is served in this process; the probe has shown that the model runs."""

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """See `ModelServer.activate`."""

    async def compare(self, name: str, folder: Path, manifest: Manifest, rule: ShadowPolicy) -> None:
        """See `ModelServer.compare`."""

    async def reload(self, name: str) -> None:
        """See `ModelServer.reload`."""


def install(settings: Settings, source: Path) -> list[ModelRecord]:
    """Install what a repository's folder wants this device to run, or one bundle.

    Returns:
        The models that were installed; those that were up to date are not among them.

    Raises:
        UsageError: `source` can't be read, or an update is under way. RejectedError, TransportError, DeviceError: as on
            the way over the network; what served before still does.
    """
    lock = locks.take(settings.store.dir / locks.UPDATE)
    if lock is None:
        raise UsageError("usage", "the agent is in the middle of an update", "try again when it is done")
    store = Store(settings.store.dir)
    with lock:
        try:
            work = _folder(settings, store, source) if source.is_dir() else _bundle(settings, store, source)
            return asyncio.run(work)
        finally:
            store.close()


async def _folder(settings: Settings, store: Store, source: Path) -> list[ModelRecord]:
    agent, wishes = await _wished(settings, store, source)
    installed = []
    for wish in wishes.values():
        record = store.record(wish.name)
        if record.deployment != wish.id or record.state is not State.ACTIVE:
            await agent.attempt(wish)
            installed.append(store.record(wish.name))
    return installed


async def _wished(settings: Settings, store: Store, source: Path) -> tuple[Agent, dict[str, Deployment]]:
    """What a stick says that this device should run; what the device has seen since, where the stick is older."""

    def with_files(files: TrustSource) -> Agent:
        return _agent(settings, store, Trust(settings.trust.root, settings.store.dir, files), FolderChunks(source))

    agent = with_files(FolderFiles(source))
    try:
        return agent, await agent.desired()
    except RejectedError as older:
        if older.code != "rollback-attempt":
            raise
        agent = with_files(FolderTargets(source, HeldFiles(settings.store.dir)))
        try:
            return agent, await agent.desired()
        except TransportError:
            # Not only signed earlier: it says something else than what the device has seen.
            raise older from None


async def _bundle(settings: Settings, store: Store, source: Path) -> list[ModelRecord]:
    try:
        file = source.open("rb")
    except OSError as error:
        message = f"{source} can't be read: {error.strerror}"
        raise UsageError("usage", message, "name a bundle, or the folder of a repository") from error
    with file:
        bundle = BundleReader(file)
        judge = Trust(settings.trust.root, settings.store.dir, BundleFiles(bundle, HeldFiles(settings.store.dir)))
        _require_trusted(judge, bundle)
        # The newest deployment stays noted as done: the fleet's next one counts, not the same once more.
        wish = _wish(bundle, store.record(bundle.manifest.name).deployment)
        await _agent(settings, store, judge, BundleChunks(bundle)).attempt(wish)
    return [store.record(wish.name)]


def _require_trusted(judge: Trust, bundle: BundleReader) -> None:
    """Refuse a bundle before anything is noted of it: its damage may be that of one stick only."""
    try:
        judge.manifest(bundle.manifest.stem, bundle.manifest_sha256)
    except TransportError as error:
        if error.code == "digest-mismatch":
            raise RejectedError(error.code, error.message, "take the bundle that was published") from error
        message = f"no signed metadata that this device has seen lists {bundle.manifest.stem}"
        hint = "connect the device once, or install from a copy of the repository's folder"
        raise RejectedError("signature-invalid", message, hint) from error
    for entry in bundle.manifest.files:
        for _ in bundle.chunks(entry):
            pass


def _wish(bundle: BundleReader, deployment: str) -> Deployment:
    manifest = bundle.manifest
    wanted = Wanted(
        target=manifest.target,
        format=manifest.file_format,
        arch=manifest.cpu.arch,
        cpu_features=manifest.cpu.features,
        manifest_sha256=bundle.manifest_sha256,
    )
    return Deployment(
        id=deployment, name=manifest.name, version=manifest.version, selector={}, percent=100.0, bundles=(wanted,)
    )


def _agent(settings: Settings, store: Store, judge: Trust, chunks: ChunkSource) -> Agent:
    clock, machine = SystemClock(), board.this_machine()
    releases = Releases(settings.store.dir, settings.store.max_bytes)
    ports = Ports(
        trust=judge,
        chunks=chunks,
        store=store,
        releases=releases,
        groups=GroupKeys(settings.trust.groups),
        prober=ChildProber(),
        server=NotServing(),
        clock=clock,
    )
    return Agent(settings.device.id, machine, ports, Reporter(Silence(), machine, store, releases, clock))
