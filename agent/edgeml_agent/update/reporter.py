"""What the device tells of itself: its retained state, reports of updates, refusals of signed files. And its log.

No content of models or requests, ever. Progress is told now and then, moves at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from edgeml_agent import log
from edgeml_agent.fetch.window import Progress
from edgeml_agent.ports import Clock, Probed, StatusSink
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import Releases
from edgeml_core import __version__
from edgeml_core.drift import Drift
from edgeml_core.errors import EdgemlError
from edgeml_core.lifecycle import State
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared, DeviceState, ModelState, Report, Tuned
from edgeml_runtime.hardware.board import Board

PROGRESS_EVERY_S: Final = 5.0
MESSAGE_MAX_CHARS: Final = 500
_NOTHING: Final = Progress(done_bytes=0, total_bytes=0, wire_bytes=0)


#: The drift of models by name and version.
Drifts = Mapping[tuple[str, str], Drift]


class Reporter:
    """One device's words.

    Args:
        drifts: how far what the models see and answer is from what they were judged on, now.
    """

    def __init__(
        self,
        voice: StatusSink,
        board: Board,
        store: Store,
        releases: Releases,
        clock: Clock,
        *,
        drifts: Callable[[], Drifts] = dict,
    ) -> None:
        self._voice = voice
        self._board = board
        self._store = store
        self._releases = releases
        self._clock = clock
        self._drifts = drifts
        #: The drift as it was told last.
        self._drifted: Drifts = {}
        self._manifests: dict[str, Manifest] = {}
        self._refused: EdgemlError | None = None
        self._progress_at = 0.0
        #: How far the last fetch of each model came: the reports that follow it say so, too.
        self._fetched: dict[str, Progress] = {}
        #: What came over the wire for each model since the start.
        self.wire_bytes: Counter[str] = Counter()

    def moved(self, record: ModelRecord) -> None:
        """An update has come to another state."""
        cause = {"code": record.code, "message": record.message}
        log.event(f"update {record.state}", model=record.name, version=record.version, **cause)
        if record.state is State.RESOLVING:
            self._fetched.pop(record.name, None)
        if record.deployment:
            self._voice.report(self._report(record))
        self.state()

    def progress(self, record: ModelRecord, progress: Progress) -> None:
        """An update's fetch has come further."""
        before = self._fetched.get(record.name, _NOTHING)
        is_new = progress.wire_bytes < before.wire_bytes
        self.wire_bytes[record.name] += progress.wire_bytes - (0 if is_new else before.wire_bytes)
        self._fetched[record.name] = progress
        is_whole = progress.done_bytes == progress.total_bytes
        if is_whole or self._clock.now() - self._progress_at >= PROGRESS_EVERY_S:
            self._progress_at = self._clock.now()
            log.event("fetched", model=record.name, done=progress.done_bytes, of=progress.total_bytes)
            self._voice.report(self._report(record))

    def activated(self, record: ModelRecord, probed: Probed) -> None:
        """An update has come to its end; the last report of it carries what the probe measured."""
        median_ms = round(probed.median_ms, 2)
        log.event("probed", model=record.name, median_ms=median_ms, peak_rss_bytes=probed.peak_rss_bytes)
        self._voice.report(msgspec.structs.replace(self._report(record), probe_ms=median_ms))

    def compared(self, record: ModelRecord, found: Compared | None) -> None:
        """A new version and the one that serves have had the same requests; None when there was nothing to compare."""
        if found is not None:
            log.event("compared", model=record.name, version=record.version, **msgspec.structs.asdict(found))
            self._voice.report(msgspec.structs.replace(self._report(record), compared=found))

    def tuned(self, record: ModelRecord, found: Tuned) -> None:
        """How the release that serves runs best here."""
        log.event("tuned", model=record.name, **msgspec.structs.asdict(found))
        self._voice.report(msgspec.structs.replace(self._report(record), tuned=found))

    def refused(self, error: EdgemlError) -> None:
        """Signed files were refused: nothing was changed by them. Told once, until they are believed again."""
        if self._refused is None or error.message != self._refused.message:
            self._refused = error
            log.failure("trust refused", error)
            no_update = ModelRecord(name="", state=State.REJECTED, code=error.code, message=error.message)
            self._voice.report(self._report(no_update))
            self.state()

    def trust_restored(self) -> None:
        """The signed files are right."""
        if self._refused is not None:
            self._refused = None
            self.state()

    def drift(self) -> None:
        """Tell how far models have drifted, if a grade is another than was told, or a quantity moved that hadn't."""
        now = self._drifts()
        changed = {key: it for key, it in now.items() if _grades(self._drifted.get(key)) != _grades(it)}
        for (name, version), drift in changed.items():
            log.event("drift", model=name, version=version, drift=drift.summary, observed=drift.observed)
        if changed:
            self.state()

    def state(self) -> None:
        """The device's whole state, as it is now."""
        board, self._drifted = self._board, self._drifts()
        self._voice.show(
            DeviceState(
                online=True,
                session=0,
                agent=__version__,
                arch=board.arch,
                cpu=board.cpu,
                cpu_features=tuple(sorted(board.cpu_features)),
                memory_bytes=board.memory_bytes,
                runtimes={str(engine): version for engine, version in board.runtimes.items()},
                models={name: self._model(record) for name, record in self._store.records().items()},
                code=self._refused.code if self._refused else "",
                message=self._refused.message[:MESSAGE_MAX_CHARS] if self._refused else "",
            )
        )

    def _model(self, record: ModelRecord) -> ModelState:
        if not record.active:
            return ModelState(version="", state=record.state)
        if record.active not in self._manifests:
            self._manifests = {record.active: self._releases.read(record.active).manifest, **self._manifests}
        manifest = self._manifests[record.active]
        return ModelState(
            version=manifest.version,
            state=record.state,
            target=manifest.target,
            format=manifest.file_format,
            drift=self._drifted.get((record.name, manifest.version)),
        )

    def _report(self, record: ModelRecord) -> Report:
        fetched = self._fetched.get(record.name)
        return Report(
            deployment=record.deployment,
            name=record.name,
            version=record.version,
            state=record.state,
            session=0,
            code=record.code,
            message=record.message[:MESSAGE_MAX_CHARS],
            **(msgspec.structs.asdict(fetched) if fetched else {}),
        )


def _grades(drift: Drift | None) -> object:
    """What is worth telling anew when it changes; the figures themselves always change a little."""
    return drift and (drift.grade, drift.psi.keys())
