"""Working ports of the agent in memory: a link, an origin, trust, a prober, a server, a clock. Each does its job.

They fail when told to, as the real ones do: with the errors of the port, at the place where the real ones would. And
the process can be told to die: `Life` ends it at the n-th thing that it does to the world.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgeml_agent.ports import Arrival, Probed, ShadowPolicy
from edgeml_agent.probe.remote_calls import Calls
from edgeml_agent.schedule import AtOnce, Calendar
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import Releases
from edgeml_agent.trust.groups import GroupKeys
from edgeml_agent.update.agent import Agent, Ports
from edgeml_agent.update.daemon import Daemon
from edgeml_agent.update.reporter import Reporter
from edgeml_core import bundle, chunks, records, trust, wire_keys
from edgeml_core import manifest as manifests
from edgeml_core.calls import Call, Check, Reply, Reproduced
from edgeml_core.desired import Deployment, FleetDocument, Wanted
from edgeml_core.drift import Drift
from edgeml_core.errors import DeviceError, EdgemlError, TransportError
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared, DeviceState, Report, Tuned
from edgeml_core.records import DeviceRecord
from edgeml_runtime.hardware.board import Board

DEVICE = "board-1"
NEVER = datetime(2100, 1, 1, tzinfo=UTC)
BOARD = Board(
    arch="aarch64",
    cpu="test",
    cpu_features=frozenset({"asimd"}),
    memory_bytes=1 << 30,
    runtimes={"onnxruntime": "1.26"},
)


class Killed(BaseException):
    """The process is dead: nobody may handle this."""


class Life:
    """What is left of the process's life, counted in things done to the world."""

    def __init__(self) -> None:
        self.left: int | None = None

    def step(self) -> None:
        """One thing more is about to be done."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


class MortalStore(Store):
    """A real store whose process may die before or after any write."""

    def __init__(self, folder: Path, life: Life) -> None:
        self._life = life
        super().__init__(folder)

    def save(self, record: ModelRecord) -> None:
        """See `Store.save`."""
        self._life.step()
        super().save(record)
        self._life.step()

    def activate(self, record: ModelRecord, now: float) -> None:
        """See `Store.activate`."""
        self._life.step()
        super().activate(record, now)
        self._life.step()

    def remove(self, record: ModelRecord) -> None:
        """See `Store.remove`."""
        self._life.step()
        super().remove(record)
        self._life.step()


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        """The time."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Let the time pass, and others run."""
        self.seconds += seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)


class MemoryLink:
    """A link that is always up; what was said over it stays here."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.shown: list[DeviceState] = []
        self.news = asyncio.Event()
        self.session = 1
        self.calls: asyncio.Queue[bytes] = asyncio.Queue()
        self.replies: list[Reply] = []

    async def run(self) -> None:
        """Stay connected."""
        await asyncio.Event().wait()

    async def announced(self) -> None:
        """Wait for `news`."""
        await self.news.wait()
        self.news.clear()

    def publish_state(self, state: DeviceState) -> None:
        """Keep a state."""
        self.shown.append(state)

    def report(self, report: Report) -> None:
        """Keep a report."""
        self.reports.append(report)

    async def called(self) -> bytes:
        """Wait for one of `calls`."""
        return await self.calls.get()

    def reply(self, reply: Reply) -> None:
        """Keep a reply."""
        self.replies.append(reply)


class MemoryOrigin:
    """All chunks of what was released. `lost` and `bad`: how many copies of a chunk go wrong before one is right."""

    def __init__(self, life: Life | None = None) -> None:
        self._life = life or Life()
        self.stored: dict[str, bytes] = {}
        self.lost: dict[str, int] = {}
        self.bad: dict[str, int] = {}
        #: Digests, in the order in which they were wanted.
        self.wanted: list[str] = []
        self.dropped: list[str] = []
        #: The wire keys of the same.
        self.keys: list[str] = []
        self._digests: dict[str, str] = {}
        self.followed: list[str] = []
        self.position = ""
        self.in_flight_most = 0
        self._queue: deque[Arrival] = deque()
        self._flying: set[str] = set()

    def add(self, content: bytes) -> None:
        """Have the chunks of a file."""
        self.stored |= {chunks.sha256(chunk): chunk for chunk in chunks.split(content)}
        self._digests |= {wire_keys.chunk_id(digest): digest for digest in self.stored}

    async def follow(self, release: str) -> None:
        """Note it."""
        self.followed.append(release)

    async def want(self, keys: Collection[str]) -> None:
        """Publish them at once, but those that get lost, and differences to what isn't here."""
        for key in keys:
            digest, *base = (self._digests.get(chunk_id, "") for chunk_id in wire_keys.ids(key))
            self.wanted.append(digest)
            self.keys.append(key)
            self._flying.add(key)
            if self.lost.get(digest, 0) > 0:
                self.lost[digest] -= 1
                continue
            if "" in base:
                continue
            payload = self._payload(digest, *base)
            if self.bad.get(digest, 0) > 0:
                self.bad[digest] -= 1
                payload = payload[:-1] + bytes([payload[-1] ^ 1])
            self._queue.append(Arrival(key, payload))
        self.in_flight_most = max(self.in_flight_most, len(self._flying))

    async def receive(self, timeout_s: float) -> Arrival | None:
        """The next one; silence costs no time here."""
        self._life.step()
        await asyncio.sleep(0)
        if not self._queue:
            return None
        arrival = self._queue.popleft()
        self._flying.discard(arrival.key)
        return arrival

    async def drop(self, keys: Collection[str]) -> None:
        """Note it."""
        self.dropped += [self._digests[wire_keys.ids(key)[0]] for key in keys]

    def _payload(self, digest: str, base: str = "") -> bytes:
        chunk = self.stored[digest]
        return chunks.to_wire_from(self.stored[base], chunk) if base else chunks.to_wire(chunk)


class MemoryTrust:
    """Signed files that were judged already; `refusal` is raised instead when it is set."""

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        self.deployments: list[Deployment] = []
        self.labels: dict[str, str] = {}
        self.revoked = False
        self.refusal: EdgemlError | None = None
        self.withdrawals: set[str] = set()

    def desired(self) -> FleetDocument:
        """The document with all deployments made here."""
        if self.refusal is not None:
            raise self.refusal
        return FleetDocument(fleet="farm", deployments=tuple(self.deployments))

    def record(self) -> DeviceRecord:
        """The device's record with the labels made here."""
        record = DeviceRecord(
            fleet="farm", device=DEVICE, version=1, labels=self.labels, revoked=self.revoked, expires=NEVER
        )
        records.check_usable(record, datetime.now(UTC))
        return record

    def withdrawn(self) -> frozenset[str]:
        """The stems that were withdrawn here."""
        return frozenset(self.withdrawals)

    def manifest(self, stem: str, digest: str) -> bytes:
        """A manifest that was released here."""
        if stem in self.withdrawals:
            raise trust.withdrawn_error(stem)
        if digest not in self.manifests:
            raise TransportError("trust-unavailable", f"{stem} isn't listed")
        return self.manifests[digest]


TUNED = Tuned(
    threads=1, batch_size=1, prepared=False, saved_bytes=0, exported_ms=2.0, tuned_ms=1.0, predicted_ram_bytes=1,
    measured_ram_bytes=1,
)  # fmt: skip


class MemoryProber:
    """Lets every release pass but those in `failures`."""

    def __init__(self, life: Life | None = None) -> None:
        self._life = life or Life()
        self.failures: dict[str, EdgemlError] = {}
        self.refusal: DeviceError | None = None
        self.probed: list[str] = []
        self.tuned: list[str] = []
        self.untunable: set[str] = set()
        self.tunes_go = asyncio.Event()
        self.tunes_go.set()
        self.answers_go = asyncio.Event()
        self.answers_go.set()

    def admit(self, manifest: Manifest) -> None:
        """Raise `refusal`, if there is one."""
        if self.refusal is not None:
            raise self.refusal

    async def probe(self, folder: Path, manifest: Manifest) -> Probed:
        """Read every file, as a runtime would."""
        self._life.step()
        await asyncio.sleep(0)
        for entry in manifest.files:
            assert chunks.sha256((folder / entry.path).read_bytes()) == entry.sha256
        self.probed.append(manifest.version)
        if manifest.version in self.failures:
            raise self.failures[manifest.version]
        return Probed(min_cosine=1.0, max_abs=0.0, first_ms=1.0, median_ms=1.0, peak_rss_bytes=1)

    async def tune(self, folder: Path, manifest: Manifest) -> Tuned:
        """Find the same for every release, unless its version is in `untunable`."""
        await self.tunes_go.wait()
        self.tuned.append(manifest.version)
        if manifest.version in self.untunable:
            raise DeviceError("probe-crashed", "was ended by SIGKILL")
        return TUNED

    async def answer(self, folder: Path, manifest: Manifest, call: Call) -> Reply:
        """Probe, and say so when `answers_go` is set."""
        found = await self.probe(folder, manifest)
        await self.answers_go.wait()
        return Reply(id=call.id, reproduced=Reproduced(min_cosine=found.min_cosine, max_abs=found.max_abs))


class MemoryServer:
    """Remembers which version answers for each model; versions in `failures` can't be loaded."""

    def __init__(self, life: Life | None = None) -> None:
        self._life = life or Life()
        self.live: dict[str, str] = {}
        self._manifests: dict[str, Manifest] = {}
        self.reloaded: list[str] = []
        self.disagreeing: set[str] = set()
        self.failures: set[str] = set()
        #: Set when the replaced versions of a model have answered; a model that isn't here has none.
        self.retiring: dict[str, asyncio.Event] = {}

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """Let a version answer."""
        self._life.step()
        await asyncio.sleep(0)
        if manifest.version in self.failures:
            raise DeviceError("runtime-failed", f"{manifest.version} can't be loaded")
        self.live[name], self._manifests[name] = manifest.version, manifest

    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the versions in `live`."""
        return {name: self._manifests[name] for name in self.live}

    async def deactivate(self, name: str) -> None:
        """Let no version answer."""
        self._life.step()
        await asyncio.sleep(0)
        self.live.pop(name, None)

    async def retired(self, name: str | None = None) -> None:
        """Wait for those in `retiring`."""
        for model, answered in self.retiring.items():
            if name in {None, model}:
                await answered.wait()

    async def compare(self, name: str, folder: Path, manifest: Manifest, rule: ShadowPolicy) -> Compared:
        """Let a version agree, unless it is in `disagreeing`."""
        await asyncio.sleep(0)
        if manifest.version in self.disagreeing:
            raise DeviceError("shadow-disagreed", "too many answers differ")
        return Compared(against=self.live[name], compared=rule.requests, differed=0, failed=0)

    async def reload(self, name: str) -> None:
        """Load what answers anew."""
        self.reloaded.append(name)


class Bench:
    """An agent on memory ports, with a real store in a folder; `start` again is what a restart makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.calendar: Calendar = AtOnce()
        self.tunes = False
        self.rule: ShadowPolicy | None = None
        self.life = Life()
        self.said = MemoryLink()
        self.trust = MemoryTrust()
        self.origin = MemoryOrigin(self.life)
        self.prober = MemoryProber(self.life)
        self.server = MemoryServer(self.life)
        self.drifts: dict[tuple[str, str], Drift] = {}
        self.restarts: list[int] = []
        self.uptime_per_look_s, self._looks = 0.0, 0
        self.start()

    def start(self) -> None:
        """A new process on the same disk. What was said before stays said."""
        self.life.left = None
        self.link = MemoryLink()
        self.link.reports, self.link.shown = self.said.reports, self.said.shown
        self.server.live = {}
        self.store = MortalStore(self.folder, self.life)
        self.releases = Releases(self.folder, max_bytes=1 << 30)
        drifts, serving = lambda: dict(self.drifts), self.server.manifests
        self.reporter = Reporter(self.link, BOARD, self.store, self.clock, serving=serving, drifts=drifts)
        ports = Ports(
            trust=self.trust,
            chunks=self.origin,
            store=self.store,
            releases=self.releases,
            groups=GroupKeys(self.folder / "groups"),
            prober=self.prober,
            server=self.server,
            clock=self.clock,
            calendar=self.calendar,
        )
        self.agent = Agent(DEVICE, BOARD, ports, self.reporter, shadow_policy=self.rule)
        calls = Calls(
            self.link,
            self.releases,
            self.prober,
            doctor=lambda: (Check("clock", "ok", "right"),),
            restart=lambda: self.restarts.append(self.link.session),
            clock=self._uptime_s,
        )
        self.daemon = Daemon(
            self.agent,
            self.link,
            self.store,
            self.reporter,
            calls=calls,
            clock=self.clock,
            folder=self.folder,
            tunes=self.tunes,
        )

    def _uptime_s(self) -> float:
        self._looks += 1
        return self._looks * self.uptime_per_look_s

    def release(self, draft: Manifest, files: dict[str, bytes]) -> Wanted:
        """Release a bundle of `files`."""
        manifest = msgspec.structs.replace(draft, files=described(files))
        data = manifests.encode(manifest)
        self.trust.manifests[chunks.sha256(data)] = data
        for content in files.values():
            self.origin.add(content)
        return Wanted(
            target=manifest.target,
            format=manifest.file_format,
            arch=manifest.cpu.arch,
            cpu_features=manifest.cpu.features,
            manifest_sha256=chunks.sha256(data),
        )

    def undeploy(self, name: str) -> Deployment:
        """Let the device serve a model no longer."""
        removal = Deployment(
            id=f"{name}-removal-{len(self.trust.deployments)}",
            name=name,
            version="",
            selector="",
            percent=100.0,
            bundles=(),
        )
        self.trust.deployments.append(removal)
        return removal

    def deploy(self, name: str, version: str, wanted: Wanted, *, activate_after: datetime | None = None) -> Deployment:
        """Let the device want a release."""
        deployment = Deployment(
            id=f"{name}-{version}-{len(self.trust.deployments)}",
            name=name,
            version=version,
            selector="",
            percent=100.0,
            bundles=(wanted,),
            activate_after=activate_after,
        )
        self.trust.deployments.append(deployment)
        return deployment


def described(files: dict[str, bytes]) -> tuple[manifests.FileEntry, ...]:
    """The manifest's entries of files."""
    return tuple(bundle.describe(path, io.BytesIO(content)) for path, content in sorted(files.items()))
