"""One simulated device: the agent's real link and fetch, the core's decisions; without files, models and a server.

Its board takes a while over each update, and may fail a version: it then reports a roll-back, and goes on with the old
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import numpy as np

from edgeml_agent.fetch.chunk_requests import ChunkRequests
from edgeml_agent.fetch.window import Fetch
from edgeml_agent.link.link import MqttLink
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_agent.store.releases import DeltaBases
from edgeml_core import broker, chunks, desired, trust
from edgeml_core import manifest as manifests
from edgeml_core.desired import Deployment
from edgeml_core.errors import EdgemlError, TransportError
from edgeml_core.lifecycle import State
from edgeml_core.manifest import Manifest
from edgeml_core.messages import DeviceState, ModelState, Report
from fleet_parts.verified_files import VerifiedFiles, receive

#: Seconds until a failed step is repeated.
AGAIN_S: Final = 1.0
_FAILED_CODE: Final = "golden-mismatch"


class Boards(msgspec.Struct, frozen=True, kw_only=True):
    """The behaviour of all boards.

    Args:
        update_s: the shortest and longest time of an update, after its fetch.
        failing: the fraction of the boards that fail, by version.
    """

    update_s: tuple[float, float] = (0.1, 1.0)
    failing: dict[str, float] = {}

    def fails(self, device: str, version: str) -> bool:
        """Return whether a version fails on a board."""
        place = hashlib.sha256(f"{device} fails {version}".encode()).digest()[0] / 256
        return place < self.failing.get(version, 0.0)


@dataclass
class Tally:
    """Everything that the devices of a process have done.

    Attributes:
        connected: devices that have decided once.
        decided: devices that have decided by a document, by its digest.
        last_s: the time of the last such decision, on the clock that all processes share.
        serving: devices by version.
        began: the devices that ever began a version.
        errors: failed steps by code.
    """

    connected: int = 0
    decided: Counter[str] = field(default_factory=Counter)
    last_s: dict[str, float] = field(default_factory=dict)
    serving: Counter[str] = field(default_factory=Counter)
    began: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The parts that the devices of one process share; `chance` draws the times of updates."""

    fleet: str
    boards: Boards
    files: VerifiedFiles
    tally: Tally
    chance: np.random.Generator


class Device:
    """One device.

    Args:
        url: the broker, or a bad link before it.
        shared: by the devices of its process.
    """

    def __init__(self, name: str, url: str, shared: Shared) -> None:
        settings = BrokerSettings(url=broker.parse(url), ca=None, cert=None, key=None)
        sessions = itertools.count(1)
        self.name = name
        self.link = MqttLink(settings, DeviceSettings(id=name, fleet=shared.fleet), lambda: next(sessions))
        #: Set when it has decided for the first time.
        self.decided = asyncio.Event()
        self._shared, self._boards, self._files, self._tally = shared, shared.boards, shared.files, shared.tally
        self._models: dict[str, ModelState] = {}
        self._held: set[str] = set()
        self._chunks: set[str] = set()
        self._document = ""
        self._wanted: dict[str, str] = {}
        self._updates: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Connect and follow the fleet until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.link.run())
            tasks.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            await self.link.announced()
            while not await self._decide():  # noqa: ASYNC110 - the broker may lack a file; nothing announces it
                await asyncio.sleep(AGAIN_S)

    async def _decide(self) -> bool:
        """Resolve once; return False if a file wasn't there, and the device has to look again."""
        try:
            received = await receive(self.link.files)
            document = await self._files.document(received)
            line = await self.link.files.record(self.name)
            if line is None:
                raise TransportError("record-missing", "the record hasn't arrived yet")
            record = self._files.own_record(line, self.name)
        except EdgemlError as error:
            self._tally.errors[error.code] += 1
            return False
        wanted = desired.wanted_by(document, self.name, record.labels)
        if received.document != self._document:
            self._document = received.document
            self._tally.decided[self._document] += 1
            self._tally.last_s[self._document] = time.monotonic()
        if not self.decided.is_set():
            self.decided.set()
            self._tally.connected += 1
        for model, deployment in wanted.items():
            self._begin(model, deployment)
        return True

    def _begin(self, model: str, deployment: Deployment) -> None:
        if self._wanted.get(model) == deployment.id:
            return
        self._wanted[model] = deployment.id
        if (earlier := self._updates.get(model)) is not None:
            earlier.cancel()
        self._tally.began[deployment.version].add(self.name)
        self._updates[model] = asyncio.create_task(self._update(deployment))

    async def _update(self, deployment: Deployment) -> None:
        digest = deployment.bundles[0].manifest_sha256
        self._report(deployment, State.FETCHING)
        while digest not in self._held:
            with contextlib.suppress(EdgemlError):
                await self._fetch(digest)
                self._held.add(digest)
                break
            self._tally.errors["fetch"] += 1
            await asyncio.sleep(AGAIN_S)
        await asyncio.sleep(self._shared.chance.uniform(*self._boards.update_s))
        if self._boards.fails(self.name, deployment.version):
            self._report(deployment, State.ROLLED_BACK, _FAILED_CODE)
            return
        before = self._models.get(deployment.name)
        if before is not None:
            self._tally.serving[before.version] -= 1
        self._tally.serving[deployment.version] += 1
        self._models[deployment.name] = ModelState(version=deployment.version, state=State.ACTIVE)
        self.link.publish_state(DeviceState(online=True, session=0, models=dict(self._models)))
        self._report(deployment, State.ACTIVE)

    async def _fetch(self, digest: str) -> None:
        """Fetch the chunks that it lacks, by the agent's window; each is checked, and its digest kept."""
        data = await self.link.files.read(trust.RELEASES, f"{trust.TARGETS_DIR}/{digest}.json")
        if data is None or chunks.sha256(data) != digest:
            raise TransportError("trust-unavailable", f"no manifest {digest} now")
        manifest = manifests.decode(data)
        wanted = dict.fromkeys(it for entry in manifest.files for it in entry.chunks)
        missing = [it for it in wanted if it not in self._chunks]
        partial = _unstored(digest, manifest, self._chunks)
        requests = ChunkRequests(DeltaBases(manifest))
        await Fetch(partial, self.link.chunks, missing=missing, requests=requests, on_progress=lambda _: None).run()

    def _report(self, deployment: Deployment, state: State, code: str = "") -> None:
        self.link.report(
            Report(
                deployment=deployment.id,
                name=deployment.name,
                version=deployment.version,
                state=state,
                session=0,
                code=code,
            )
        )


def _unstored(digest: str, manifest: Manifest, held: set[str]) -> Any:  # noqa: ANN401 - a stand-in of it on the disk
    def put(digest: str, chunk: bytes) -> int:
        held.add(digest)
        return len(chunk)

    return cast(
        "Any",
        SimpleNamespace(
            release=SimpleNamespace(digest=digest, manifest=manifest),
            size_of=lambda missing: len(missing) * chunks.CHUNK_BYTES,
            put=put,
            sync=lambda: None,
        ),
    )
