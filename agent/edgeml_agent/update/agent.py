"""The way of a model on its device, and nothing but the way: when it is gone is `daemon`'s business.

    announce -> desired state -> fetch -> verify -> probe (-> compare) -> activate -> serve -> report

`Agent.update` is that line. Each step moves the update machine, whose table says what may follow; a step that fails
leaves what serves as it was. The shell touches ports only; no library of an adapter is imported here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from edgeml_agent import log
from edgeml_agent.fetch.chunk_requests import ChunkRequests
from edgeml_agent.fetch.window import Fetch
from edgeml_agent.ports import ChunkSource, Clock, ModelServer, Prober, ShadowPolicy, Trust
from edgeml_agent.schedule import AtOnce, Calendar
from edgeml_agent.store import tuning
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import Bases, Partial, Release, Releases
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.update.reporter import Reporter
from edgeml_agent.update.state_machine import Machine, finished
from edgeml_core import desired, lifecycle, names
from edgeml_core import manifest as manifests
from edgeml_core.desired import Deployment
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError
from edgeml_core.lifecycle import Event, State
from edgeml_runtime.hardware.board import Board

#: While an update is in these states, what it holds of a release is worth keeping.
_ON_THE_WAY: Final = lifecycle.UNDER_WAY | {State.WAITING, State.DEFERRED}


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The world around the shell."""

    trust: Trust
    chunks: ChunkSource
    store: Store
    releases: Releases
    groups: GroupKeys
    prober: Prober
    server: ModelServer
    clock: Clock
    calendar: Calendar = field(default_factory=AtOnce)


class _TooEarly(Exception):
    """An update has to stand still until `until_s`, in seconds since 1970."""

    def __init__(self, what: str, until_s: float) -> None:
        self.until_s = until_s
        self.text = f"{what} {datetime.fromtimestamp(until_s, UTC):%Y-%m-%d %H:%M} UTC"
        super().__init__(self.text)


class Agent:
    """What one device does for the models that it is wanted to run.

    Args:
        rule: by which a new version is compared with the one that answers, before it takes its place; None for none.
    """

    def __init__(
        self, device_id: str, board: Board, ports: Ports, telling: Reporter, *, rule: ShadowPolicy | None = None
    ) -> None:
        self._device_id = device_id
        self._board = board
        self._ports = ports
        self._telling = telling
        self._rule = rule
        self._target = ""
        #: Loading a release and remembering it belong together.
        self._swapping = asyncio.Lock()
        #: The releases that answer now, by model.
        self.serving: dict[str, str] = {}
        #: The releases for which the best way to run was sought in this run; one that failed isn't sought again.
        self._tuned: set[str] = set()

    async def desired(self) -> dict[str, Deployment]:
        """What the signed fleet document wants this device to run, by model.

        Raises:
            RejectedError: the metadata is forged, old, expired or malformed. TransportError: it can't be had.
        """
        document = await asyncio.to_thread(self._ports.trust.desired)
        device = document.devices.get(self._device_id)
        self._target = "" if device is None else device.labels.get("target", "")
        return desired.wanted_by(document, self._device_id)

    async def update(self, machine: Machine, wish: Deployment) -> None:
        """The way of a model, from a deployment to the release that answers. A step that fails raises."""
        await machine.begin(wish.id, wish.version)
        release, group = await self._resolve(wish)
        await machine.advance(Event.RESOLVED, wanted=release.digest)
        fetched = await self._fetch(machine, release, group)
        await machine.advance(Event.FETCHED)
        folder = await self._verify(fetched)
        await machine.advance(Event.VERIFIED)
        probed = await self._ports.prober.probe(folder, release.manifest)
        self._require_time(wish)
        await self._compare(machine, release)
        await finished(self._activate(machine, release))
        self._telling.activated(machine.record, probed)

    async def attempt(self, wish: Deployment) -> float:
        """Go the way once, and note how it ended.

        Returns:
            When to go it again, in seconds since 1970, where its time hasn't come yet; 0 when the release answers.

        Raises:
            EdgemlError: what ended it; by then it is noted and reported.
        """
        machine = Machine(self._ports.store, wish.name, self._telling.moved)
        try:
            await self.update(machine, wish)
        except _TooEarly as wait:
            await machine.advance(Event.POSTPONED, message=wait.text)
            return wait.until_s
        except asyncio.CancelledError:
            await machine.interrupt()
            raise
        except EdgemlError as error:
            await machine.fail(error)
            raise
        except Exception as error:
            log.defect("update failed", error, model=wish.name)
            defect = DeviceError("internal", f"the agent failed: {error}", "its log has the details")
            await machine.fail(defect)
            raise defect from error
        else:
            return 0.0
        finally:
            await asyncio.to_thread(self._collect)

    async def _resolve(self, wish: Deployment) -> tuple[Release, str]:
        """The release of a deployment that suits this device, by its manifest; and the group it is encrypted for."""
        board = self._board
        wanted = desired.choose_bundle(
            wish, arch=board.arch, cpu_features=board.cpu_features, formats=board.formats, target=self._target
        )
        if refusal := self._ports.store.refusal(wanted.manifest_sha256):
            code, message = refusal
            raise RejectedError(code, f"refused before: {message}", "deploy another version")
        stem = names.bundle_stem(wish.name, wish.version, wanted.target, wanted.format)
        data = await asyncio.to_thread(self._ports.trust.manifest, stem, wanted.manifest_sha256)
        release = Release(digest=wanted.manifest_sha256, manifest_bytes=data, manifest=manifests.decode(data))
        if release.manifest.stem != stem:
            raise RejectedError("bundle-format", f"the manifest of {stem} calls itself {release.manifest.stem}")
        self._ports.prober.admit(release.manifest)
        return release, wanted.group

    async def _fetch(self, machine: Machine, release: Release, group: str) -> Partial:
        """All chunks of a release: those on the disk, those of other releases here, and the rest from afar."""
        opened, missing, bases = await asyncio.to_thread(self._open, release)
        if missing:
            log.event("fetching", model=machine.record.name, chunks=len(missing))
            notice = partial(self._telling.progress, machine.record)
            asking = ChunkRequests(bases, self._ports.groups.seal(group) if group else None)
            await self._in_hours(
                Fetch(opened, self._ports.chunks, missing=missing, requests=asking, on_progress=notice)
            )
        return opened

    async def _in_hours(self, fetch: Fetch) -> None:
        """Fetch while it is allowed; what has arrived by then stays."""
        calendar, now_s = self._ports.calendar, self._ports.clock.now()
        if (opens_s := calendar.fetch_at(now_s)) > now_s:
            raise _TooEarly("fetches from", opens_s)
        closes_s = calendar.fetch_until(now_s)
        try:
            async with asyncio.timeout(None if closes_s is None else closes_s - now_s):
                await fetch.run()
        except TimeoutError:
            raise _TooEarly("fetches on from", calendar.fetch_at(closes_s or now_s)) from None

    async def _compare(self, machine: Machine, release: Release) -> None:
        """Where that is wished, give the release the same requests as the one that answers, and see that they agree."""
        name = machine.record.name
        if self._rule is None or name not in self.serving:
            await machine.advance(Event.PROBED)
            return
        await machine.advance(Event.STAGED)
        folder = self._ports.releases.folder(release.digest)
        found = await self._ports.server.compare(name, folder, release.manifest, self._rule)
        self._telling.compared(machine.record, found)
        await machine.advance(Event.AGREED)

    def _require_time(self, wish: Deployment) -> None:
        now_s = self._ports.clock.now()
        if (at_s := self._ports.calendar.activate_at(wish, now_s)) > now_s:
            raise _TooEarly("is fetched and proved, activates from", at_s)

    async def _verify(self, fetched: Partial) -> Path:
        """The release's folder, once every file on the disk is what was signed."""

        def verify() -> Path:
            fetched.verify()
            return self._ports.releases.finish(fetched)

        return await asyncio.to_thread(verify)

    async def _activate(self, machine: Machine, release: Release) -> None:
        """Let the release answer, then remember that it does. Between the two, a power cut brings the old one back."""
        async with self._swapping:
            await self._load(machine.record.name, release, machine.record.deployment)
            await machine.activate(self._ports.clock.now())

    async def serve(self, name: str) -> None:
        """Let what the store says answer for `name`; the version before it, where that one fails.

        Raises:
            DeviceError: neither can; what answered before still does.
        """
        async with self._swapping:
            record = self._ports.store.record(name)
            if not record.active or self.serving.get(name) == record.active:
                return
            try:
                await self._load(name, self._ports.releases.read(record.active), record.deployment)
            except DeviceError as error:
                if not record.previous:
                    raise
                log.failure("active release failed", error, model=name)
                record = self._ports.store.roll_back(name, error.code, error.message)
                await self._load(name, self._ports.releases.read(record.active), "")
            if record.state is State.ROLLED_BACK:
                self._telling.moved(record)
            else:
                self._telling.state()

    async def _load(self, name: str, release: Release, deployment: str) -> None:
        folder = self._ports.releases.folder(release.digest)
        await self._ports.server.activate(name, folder, release.manifest, deployment)
        self.serving[name] = release.digest
        log.event("serving", model=name, version=release.manifest.version, deployment=deployment)

    async def tune(self, name: str) -> None:
        """Find out, once, how the release that answers for `name` runs best here, and let it run so."""
        digest = self.serving[name]
        folder, release = self._ports.releases.folder(digest), self._ports.releases.read(digest)
        if digest in self._tuned or await asyncio.to_thread(tuning.read, folder, release.manifest) is not None:
            return
        try:
            found = await self._ports.prober.tune(folder, release.manifest)
            async with self._swapping:
                if self.serving.get(name) == digest:
                    await finished(self._ports.server.reload(name))
        except EdgemlError as error:
            self._tuned.add(digest)
            log.failure("not tuned", error, model=name)
        else:
            self._tuned.add(digest)
            self._telling.tuned(self._ports.store.record(name), found)

    def _open(self, release: Release) -> tuple[Partial, list[str], Bases]:
        records = self._ports.store.records()
        opened = self._ports.releases.begin(release, _kept(records))
        held = [record.active for record in records.values() if record.active and record.name == release.manifest.name]
        missing = self._ports.releases.reuse(opened, opened.missing(), held)
        return opened, missing, self._ports.releases.bases(release, held)

    def _collect(self) -> None:
        try:
            self._ports.releases.collect(_kept(self._ports.store.records()))
        except DeviceError as error:
            # How the update ended stands; what couldn't be removed is tried again before the next.
            log.failure("old releases stay", error)


def _kept(records: dict[str, ModelRecord]) -> set[str]:
    """The releases that must stay: active, previous, and on their way."""
    return {
        digest
        for record in records.values()
        for digest in (record.active, record.previous, record.wanted if record.state in _ON_THE_WAY else "")
        if digest
    }
