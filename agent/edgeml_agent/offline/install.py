"""`edgeml-agent install`: install from a stick, without a broker, with the same trust and the same steps.

A repository's folder has its own signed metadata and deployments. A bare bundle is accepted if metadata that this
device trusts already lists it. The installed release answers at once if an agent runs, else when one starts. It stays
until the fleet makes another deployment.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from edgeml_agent.offline.sources import BundleChunks, BundleFiles, FolderChunks, FolderFiles, FolderTargets
from edgeml_agent.ports import ChunkSource, ShadowPolicy, TrustSource
from edgeml_agent.probe.prober import ChildProber
from edgeml_agent.settings import Settings
from edgeml_agent.store import locks
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import Releases
from edgeml_agent.system.clock import SystemClock
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.trust.trust import HeldFiles, Trust
from edgeml_agent.update.agent import Agent, Ports
from edgeml_agent.update.reporter import Reporter
from edgeml_core.bundle import BundleReader
from edgeml_core.desired import Deployment, Wanted
from edgeml_core.errors import EdgemlError, RejectedError, TransportError, UsageError
from edgeml_core.lifecycle import State
from edgeml_core.manifest import Manifest
from edgeml_core.messages import DeviceState, Report
from edgeml_io import files
from edgeml_runtime.hardware import board


class NullStatusSink:
    """A `StatusSink` that discards everything."""

    def publish_state(self, state: DeviceState) -> None:
        """See `StatusSink.publish_state`."""

    def report(self, report: Report) -> None:
        """See `StatusSink.report`."""


class NullModelServer:
    """A `ModelServer` for a process that serves nothing; the probe has run the model."""

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """See `ModelServer.activate`."""

    async def deactivate(self, name: str) -> None:
        """See `ModelServer.deactivate`."""

    async def retired(self, name: str | None = None) -> None:
        """See `ModelServer.retired`."""

    async def compare(self, name: str, folder: Path, manifest: Manifest, policy: ShadowPolicy) -> None:
        """See `ModelServer.compare`."""

    async def reload(self, name: str) -> None:
        """See `ModelServer.reload`."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A model that wasn't installed; the version that served still does."""

    name: str
    version: str
    error: EdgemlError


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """The models that were installed, and those that failed; those that were up to date are in neither."""

    models: tuple[ModelRecord, ...]
    failures: tuple[Failure, ...] = ()


def install(settings: Settings, source: Path) -> Installed:
    """Install the deployments of a repository's folder for this device, or one bundle. No failure stops other models.

    Raises:
        UsageError: `source` can't be read, or an update is under way.
        RejectedError, TransportError: the signed files of `source` are refused or can't be read, so nothing is
            installed. A bare bundle fails as an update over the network does.
    """
    lock = locks.take(settings.store.dir / locks.UPDATE)
    if lock is None:
        raise UsageError("usage", "an update is under way on this device", "repeat the command when it has ended")
    store = Store(settings.store.dir)
    with lock:
        try:
            work = (
                _install_folder(settings, store, source)
                if source.is_dir()
                else _install_bundle(settings, store, source)
            )
            return asyncio.run(work)
        finally:
            store.close()


async def _install_folder(settings: Settings, store: Store, source: Path) -> Installed:
    agent, deployments = await _read_folder(settings, store, source)
    installed, failures = [], []
    for deployment in deployments.values():
        record = store.record(deployment.name)
        if record.deployment == deployment.id and record.state in {State.ACTIVE, State.REMOVED}:
            continue
        try:
            await agent.attempt(deployment)
        except EdgemlError as error:
            failures.append(Failure(name=deployment.name, version=deployment.version, error=error))
        else:
            installed.append(store.record(deployment.name))
    return Installed(models=tuple(installed), failures=tuple(failures))


async def _read_folder(settings: Settings, store: Store, source: Path) -> tuple[Agent, dict[str, Deployment]]:
    """Return a stick's deployments for this device; those that the device trusts already, if the stick is older."""

    def with_files(signed: TrustSource) -> Agent:
        verifier = Trust(settings.trust.root, settings.store.dir, signed, settings.device)
        return _agent(settings, store, verifier, FolderChunks(source))

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
            # The stick isn't only older: its content contradicts the metadata that the device has seen.
            raise older from None


async def _install_bundle(settings: Settings, store: Store, source: Path) -> Installed:
    try:
        file = files.open_regular(source, follows_link=True)
    except OSError as error:
        message = f"can't read {source}: {error.strerror}"
        raise UsageError("usage", message, "name a bundle, or the folder of a repository") from error
    with file:
        bundle = BundleReader(file)
        held = BundleFiles(bundle, HeldFiles(settings.store.dir))
        bundle_trust = Trust(settings.trust.root, settings.store.dir, held, settings.device)
        _check_trusted(bundle_trust, bundle)
        bundle_trust.record()
        # The newest deployment stays recorded as done, so that only the fleet's next one counts.
        deployment = _deployment(bundle, store.record(bundle.manifest.name).deployment)
        await _agent(settings, store, bundle_trust, BundleChunks(bundle)).attempt(deployment)
    return Installed(models=(store.record(deployment.name),))


def _check_trusted(bundle_trust: Trust, bundle: BundleReader) -> None:
    """Refuse a bundle before anything is recorded of it: the damage may be on one stick only."""
    try:
        bundle_trust.manifest(bundle.manifest.stem, bundle.manifest_sha256)
    except TransportError as error:
        if error.code == "digest-mismatch":
            raise RejectedError(error.code, error.message, "copy the published bundle again") from error
        message = f"no signed metadata that this device has seen lists {bundle.manifest.stem}"
        hint = "connect the device once, or install from a copy of the repository's folder"
        raise RejectedError("signature-invalid", message, hint) from error
    for entry in bundle.manifest.files:
        for _ in bundle.chunks(entry):
            pass


def _deployment(bundle: BundleReader, deployment_id: str) -> Deployment:
    manifest = bundle.manifest
    wanted = Wanted(
        target=manifest.target,
        format=manifest.file_format,
        arch=manifest.cpu.arch,
        cpu_features=manifest.cpu.features,
        manifest_sha256=bundle.manifest_sha256,
    )
    return Deployment(
        id=deployment_id, name=manifest.name, version=manifest.version, selector="", percent=100.0, bundles=(wanted,)
    )


def _agent(settings: Settings, store: Store, trust: Trust, chunks: ChunkSource) -> Agent:
    clock, host = SystemClock(), board.this_machine()
    releases = Releases(settings.store.dir, settings.store.max_bytes)
    ports = Ports(
        trust=trust,
        chunks=chunks,
        store=store,
        releases=releases,
        groups=GroupKeys(settings.trust.groups),
        prober=ChildProber(),
        server=NullModelServer(),
        clock=clock,
    )
    return Agent(settings.device.id, host, ports, Reporter(NullStatusSink(), host, store, clock, serving=dict))
