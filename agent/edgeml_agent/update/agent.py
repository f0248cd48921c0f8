"""One update of one model, from its deployment to the release that answers.

    announcement -> desired state -> fetch -> verify -> probe (-> compare) -> activate -> serve -> report

`Agent.update` is this path: each step advances the state machine, and a step that fails leaves the serving version as
it is. `daemon` and `update_task` decide when an update runs. Only ports are used here, no adapter's library.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edgeml_agent import log
from edgeml_agent.fetch.chunk_requests import ChunkRequests
from edgeml_agent.fetch.window import Fetch, Progress
from edgeml_agent.ports import ChunkSource, Clock, ModelServer, Prober, ShadowPolicy, Trust
from edgeml_agent.schedule import AtOnce, Calendar
from edgeml_agent.store import tuning
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import DeltaBases, PartialRelease, Release, Releases
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.update.metrics import UpdateMetrics
from edgeml_agent.update.reporter import Reporter
from edgeml_agent.update.state_machine import StateMachine
from edgeml_core import desired, lifecycle, names, trust
from edgeml_core import manifest as manifests
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError
from edgeml_core.lifecycle import Event, State
from edgeml_core.manifest import Manifest
from edgeml_core.records import DeviceRecord
from edgeml_io.aio import run_to_end
from edgeml_runtime.hardware.board import Board

#: States in which the chunks of the wanted release are kept on the disk.
_KEEPS_CHUNKS: Final = lifecycle.UNDER_WAY | {State.WAITING, State.DEFERRED}
#: Final states of an update: only another deployment starts a new one.
_SETTLED: Final = frozenset({State.ACTIVE, State.REJECTED, State.ROLLED_BACK, State.REMOVED})
#: Codes of failures that the release didn't cause and the device may recover from: the next look retries the update.
_RECOVERABLE: Final = frozenset({"disk-full", "memory-short", "store-failed"})
#: Those of them after which the fetched chunks stay for the next look; a full disk needs their room.
_CODES_KEEPING_CHUNKS: Final = _RECOVERABLE - {"disk-full"}


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The ports that the agent uses."""

    trust: Trust
    chunks: ChunkSource
    store: Store
    releases: Releases
    groups: GroupKeys
    prober: Prober
    server: ModelServer
    clock: Clock
    calendar: Calendar = field(default_factory=AtOnce)


class _Postponed(Exception):
    """The update must pause until `until_s`, in seconds since 1970."""

    def __init__(self, reason: str, until_s: float, error: DeviceError | None) -> None:
        self.until_s = until_s
        self.code = error.code if error else ""
        self.text = error.message if error else f"{reason} {datetime.fromtimestamp(until_s, UTC):%Y-%m-%d %H:%M} UTC"
        super().__init__(self.text)


class Agent:
    """The updates and the serving models of one device.

    Args:
        shadow_policy: how a new version is compared with the serving one before activation; None skips the comparison.
    """

    def __init__(
        self,
        device_id: str,
        board: Board,
        ports: Ports,
        reporter: Reporter,
        *,
        shadow_policy: ShadowPolicy | None = None,
    ) -> None:
        self._device_id = device_id
        self._board = board
        self._ports = ports
        self._reporter = reporter
        self._shadow_policy = shadow_policy
        self._target = ""
        #: For each model, held while a release is loaded and recorded: both or neither.
        self._swap_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        #: Digest of the serving release by model, and the stem of its bundle.
        self.serving: dict[str, str] = {}
        self._stems: dict[str, str] = {}
        #: Releases that were tuned in this run, or failed to be; neither is tuned again.
        self._tuned: set[str] = set()
        self.metrics = UpdateMetrics(ports.store)

    async def desired(self) -> dict[str, Deployment]:
        """Return the deployments of the signed fleet document that include this device, by model.

        Raises:
            RejectedError: the metadata or this device's record is forged, old, expired or malformed; `device-revoked`.
            TransportError: the metadata can't be fetched.
        """

        def read() -> tuple[FleetDocument, DeviceRecord]:
            return self._ports.trust.desired(), self._ports.trust.record()

        document, record = await asyncio.to_thread(read)
        self._target = record.labels.get(desired.TARGET_LABEL, "")
        return desired.wanted_by(document, self._device_id, record.labels)

    async def serving_withdrawn(self) -> dict[str, str]:
        """Return the withdrawn releases that serve here, as stems by model."""
        withdrawn = await asyncio.to_thread(self._ports.trust.withdrawn)
        return {name: stem for name, stem in self._stems.items() if stem in withdrawn}

    async def update(self, machine: StateMachine, deployment: Deployment) -> None:
        """Install a deployment, or remove its model: all steps in order, each with its event of the table.

        Raises:
            EdgemlError: a step failed; the serving version is unchanged.
        """
        await machine.begin(deployment.id, deployment.version)
        if deployment.removes:
            await run_to_end(self._remove(machine))
            return
        release, group = await self._resolve(deployment)
        if self.serving.get(deployment.name) == release.digest:
            # An aborted rollout leaves devices that never took its version: a second copy would only cost memory.
            await machine.advance(Event.KEPT)
            return
        await machine.advance(Event.RESOLVED, wanted=release.digest)
        fetched = await self._fetch(machine.record, release, group)
        await machine.advance(Event.FETCHED)
        folder = await self._verify(fetched)
        await machine.advance(Event.VERIFIED)
        probed = await self._ports.prober.probe(folder, release.manifest)
        self._check_activation_time(deployment)
        await self._check_withdrawn(release)
        if self._shadow_policy is not None and deployment.name in self.serving:
            await machine.advance(Event.STAGED)
            await self._compare(machine.record, release, self._shadow_policy)
            await machine.advance(Event.AGREED)
        else:
            await machine.advance(Event.PROBED)

        async def activate() -> None:
            # A power cut after the load and before the record brings the old version back.
            async with self._swap_locks[deployment.name]:
                await self._load(deployment.name, release, deployment.id)
                await machine.activate(self._ports.clock.now())

        await run_to_end(activate())
        self._reporter.activated(machine.record, probed)

    async def retired(self, name: str) -> None:
        """Wait until the replaced version of a model is gone; its next one would be a third in memory."""
        await self._ports.server.retired(name)

    async def _remove(self, machine: StateMachine) -> None:
        """Stop serving a model; accepted requests are still answered. A power cut before the record repeats it."""
        async with self._swap_locks[machine.record.name]:
            await self._stop_serving(machine.record.name)
            await machine.remove()

    async def _stop_serving(self, name: str) -> None:
        await self._ports.server.deactivate(name)
        self._stems.pop(name, None)
        if self.serving.pop(name, None):
            log.event("not serving", model=name)

    async def attempt(self, deployment: Deployment) -> float | None:
        """Run `update` once, and record and report how it ended.

        Returns:
            When to resume a postponed update, in seconds since 1970; None when the release answers.

        Raises:
            EdgemlError: the update failed; the failure is recorded and reported.
        """
        machine = self._machine(deployment.name)
        try:
            await self.update(machine, deployment)
        except _Postponed as postponed:
            await machine.advance(Event.POSTPONED, code=postponed.code, message=postponed.text)
            return postponed.until_s
        except asyncio.CancelledError:
            await machine.interrupt()
            raise
        except EdgemlError as error:
            await machine.fail(error)
            raise
        except Exception as error:
            log.defect("update failed", error, model=deployment.name)
            defect = DeviceError("internal", f"the agent failed: {error}", "read the agent's log for the traceback")
            await machine.fail(defect)
            raise defect from error
        else:
            return None
        finally:
            await run_to_end(asyncio.to_thread(self._collect))

    async def interrupt(self, name: str) -> None:
        """Record that an update under way stopped, as after a restart."""
        await self._machine(name).interrupt()

    async def abandon(self, name: str) -> None:
        """Record that the deployment of an unfinished update is gone."""
        await self._machine(name).abandon()

    def is_settled(self, deployment: Deployment) -> bool:
        """Return whether the update for a deployment has ended for good."""
        record = self._ports.store.record(deployment.name)
        return record.deployment == deployment.id and record.state in _SETTLED and record.code not in _RECOVERABLE

    def _machine(self, name: str) -> StateMachine:
        return StateMachine(self._ports.store, name, self._reporter.state_changed)

    async def _resolve(self, deployment: Deployment) -> tuple[Release, str]:
        """Return the deployment's release for this device, and the group that its chunks are encrypted for."""
        board = self._board
        wanted = desired.choose_bundle(
            deployment, arch=board.arch, cpu_features=board.cpu_features, formats=board.formats, target=self._target
        )
        refusal = self._ports.store.refusal(wanted.manifest_sha256)
        if refusal and not desired.is_another_attempt(deployment):
            code, message = refusal
            hint = "deploy another version, or this one with `edgeml fleet deploy --again` when the cause is gone"
            raise RejectedError(code, f"refused before: {message}", hint)
        stem = names.bundle_stem(deployment.name, deployment.version, wanted.target, wanted.format)
        data = await asyncio.to_thread(self._ports.trust.manifest, stem, wanted.manifest_sha256)
        release = Release(digest=wanted.manifest_sha256, manifest_bytes=data, manifest=manifests.decode(data))
        if release.manifest.stem != stem:
            raise RejectedError("bundle-format", f"the manifest of {stem} calls itself {release.manifest.stem}")
        await self._admit(release.manifest)
        return release, wanted.group

    async def _admit(self, manifest: Manifest) -> None:
        """Check that this device can run a model; where memory is short, wait for that of replaced versions first."""
        try:
            self._ports.prober.admit(manifest)
        except DeviceError as error:
            if error.code != "memory-short":
                raise
            await self._ports.server.retired()
            self._ports.prober.admit(manifest)

    async def _fetch(self, record: ModelRecord, release: Release, group: str) -> PartialRelease:
        """Collect all chunks of a release: from its own folder, from other releases here, then from the origin."""
        partial, missing, bases = await run_to_end(asyncio.to_thread(self._open, release))
        if missing:
            log.event("fetching", model=record.name, chunks=len(missing))
            count_bytes = self.metrics.start_fetch(record.name)

            def on_progress(progress: Progress) -> None:
                count_bytes(progress.wire_bytes)
                self._reporter.progress(record, progress)

            requests = ChunkRequests(bases, self._ports.groups.seal(group) if group else None)
            fetch = Fetch(partial, self._ports.chunks, missing=missing, requests=requests, on_progress=on_progress)
            await self._fetch_in_window(fetch)
        return partial

    async def _fetch_in_window(self, fetch: Fetch) -> None:
        """Fetch while the calendar permits; received chunks stay on the disk."""
        calendar, now_s = self._ports.calendar, self._ports.clock.now()
        if (opens_s := calendar.fetch_at(now_s)) > now_s:
            raise self._postponed("fetches from", opens_s)
        closes_s = calendar.fetch_until(now_s)
        try:
            async with asyncio.timeout(None if closes_s is None else closes_s - now_s):
                await fetch.run()
        except TimeoutError:
            raise self._postponed("fetches on from", calendar.fetch_at(closes_s or now_s)) from None

    def _postponed(self, reason: str, until_s: float) -> _Postponed:
        return _Postponed(reason, until_s, self._ports.calendar.clock_error(self._ports.clock.now()))

    async def _verify(self, fetched: PartialRelease) -> Path:
        """Verify every file against the manifest, and return the finished release's folder."""

        def verify() -> Path:
            fetched.verify()
            return self._ports.releases.finish(fetched)

        return await run_to_end(asyncio.to_thread(verify))

    def _check_activation_time(self, deployment: Deployment) -> None:
        now_s = self._ports.clock.now()
        if (at_s := self._ports.calendar.activate_at(deployment, now_s)) > now_s:
            raise self._postponed("is fetched and probed, activates from", at_s)

    async def _check_withdrawn(self, release: Release) -> None:
        """Refuse a release that was withdrawn since it was resolved: a fetch may take hours."""
        if release.manifest.stem in await asyncio.to_thread(self._ports.trust.withdrawn):
            raise trust.withdrawn_error(release.manifest.stem)

    async def _compare(self, record: ModelRecord, release: Release, policy: ShadowPolicy) -> None:
        """Give the new release the requests of the serving one, and report how far the answers agree."""
        folder = self._ports.releases.folder(release.digest)
        compared = await self._ports.server.compare(record.name, folder, release.manifest, policy)
        self._reporter.compared(record, compared)

    async def serve(self, name: str) -> None:
        """Load the store's active release of `name`; roll back to the previous one if that fails.

        A model that another process has removed stops serving.

        Raises:
            EdgemlError: both failed, and the version that answered before still does; or the store takes no rollback.
        """
        async with self._swap_locks[name]:
            record = self._ports.store.record(name)
            if not record.active and name in self.serving:
                await self._stop_serving(name)
                self._reporter.publish_state()
            if not record.active or self.serving.get(name) == record.active:
                return
            try:
                record = await self._load_active(record)
            except EdgemlError as error:
                self._reporter.not_loaded(record, error)
                raise
            self._reporter.loaded(record)

    async def _load_active(self, record: ModelRecord) -> ModelRecord:
        """Load the active release, or the previous one if that fails; return the record as it is then."""
        try:
            await self._load(record.name, self._ports.releases.read(record.active), record.deployment)
        except EdgemlError as error:
            if not record.previous:
                raise
            log.failure("active release failed", error, model=record.name)
            # Recorded afterwards: a card that has damaged a model is often read-only, too.
            await self._load(record.name, self._ports.releases.read(record.previous), "")
            return self._ports.store.roll_back(record.name, error.code, error.message)
        return record

    async def _load(self, name: str, release: Release, deployment: str) -> None:
        folder = self._ports.releases.folder(release.digest)
        try:
            await self._ports.server.activate(name, folder, release.manifest, deployment)
        except OSError as error:
            message = f"the files of {release.manifest.stem} can't be read: {error}"
            raise DeviceError("store-failed", message, "check the disk; SD cards wear out") from error
        self.serving[name], self._stems[name] = release.digest, release.manifest.stem
        log.event("serving", model=name, version=release.manifest.version, deployment=deployment)

    async def tune(self, name: str) -> None:
        """Tune the serving release of `name` for this device, once, and reload it with the result."""
        if (digest := self.serving.get(name)) is None or digest in self._tuned:
            return
        await self._ports.server.retired(name)  # a cancelled wait costs nothing, unlike one before the reload
        try:
            folder, release = self._ports.releases.folder(digest), self._ports.releases.read(digest)
            if await asyncio.to_thread(tuning.read, folder, release.manifest) is not None:
                return
            tuned = await self._ports.prober.tune(folder, release.manifest)
            async with self._swap_locks[name]:
                if self.serving.get(name) == digest:
                    await run_to_end(self._ports.server.reload(name))
        except EdgemlError as error:
            self._tuned.add(digest)
            log.failure("not tuned", error, model=name)
        else:
            self._tuned.add(digest)
            self._reporter.tuned(self._ports.store.record(name), tuned)

    def _open(self, release: Release) -> tuple[PartialRelease, list[str], DeltaBases]:
        records, releases = self._ports.store.records(), self._ports.releases
        partial = releases.begin(release, _kept(records))
        active = [it.active for it in records.values() if it.active and it.name == release.manifest.name]
        held = list(filter(releases.is_readable, active))
        missing = releases.reuse(partial, partial.missing(), held)
        return partial, missing, releases.bases(release, held)

    def _collect(self) -> None:
        try:
            self._ports.releases.collect(_kept(self._ports.store.records()))
        except DeviceError as error:
            # The update's outcome stands; the next update removes the rest.
            log.failure("old releases stay", error)


def _kept(records: dict[str, ModelRecord]) -> set[str]:
    """Return the releases that must stay on the disk: active, previous, and those of updates that may go on."""
    unfinished = {it.wanted for it in records.values() if it.state in _KEEPS_CHUNKS or it.code in _CODES_KEEPING_CHUNKS}
    return {digest for it in records.values() for digest in (it.active, it.previous)}.union(unfinished) - {""}
