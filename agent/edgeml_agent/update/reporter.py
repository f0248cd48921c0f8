"""The device's reports: its retained state, the progress and outcome of updates, refused signed files; and its log.

No report has content of models or requests, ever. State changes are reported at once, progress at most every
`PROGRESS_EVERY_S`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from edgeml_agent import log
from edgeml_agent.fetch.window import Progress
from edgeml_agent.ports import Clock, Probed, StatusSink
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_core import __version__, trust
from edgeml_core.drift import Drift
from edgeml_core.errors import EdgemlError
from edgeml_core.lifecycle import State
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared, DeviceState, ModelState, Report, Tuned
from edgeml_runtime.hardware.board import Board

#: Seconds between two reports of a fetch's progress: a report costs about as many bytes as a small chunk.
PROGRESS_EVERY_S: Final = 5.0
#: Characters of an error message in a report; the log has the rest.
MESSAGE_MAX_CHARS: Final = 500

#: The drift of models by name and version.
Drifts = Mapping[tuple[str, str], Drift]


class Reporter:
    """The reports of one device.

    Args:
        serving: returns the manifests of the models that answer, by name.
        drifts: returns the current drift of the serving models.
    """

    def __init__(
        self,
        sink: StatusSink,
        board: Board,
        store: Store,
        clock: Clock,
        *,
        serving: Callable[[], Mapping[str, Manifest]],
        drifts: Callable[[], Drifts] = dict,
    ) -> None:
        self._sink = sink
        self._board = board
        self._store = store
        self._clock = clock
        self._serving = serving
        self._drifts = drifts
        #: The drift as it was last reported.
        self._reported_drifts: Drifts = {}
        #: Why the active releases of models can't be loaded, as it was last reported.
        self._load_failures: dict[str, str] = {}
        self._refused: EdgemlError | None = None
        #: The withdrawn releases that serve, as they were last logged.
        self._withdrawn: Mapping[str, str] = {}
        self._progress_at_s = 0.0
        #: Progress of the last fetch of each model; later reports of the same update repeat it.
        self._progress: dict[str, Progress] = {}

    def state_changed(self, record: ModelRecord) -> None:
        """Report the new state of an update."""
        cause = {"code": record.code, "message": record.message}
        log.event(f"update {record.state}", model=record.name, version=record.version, **cause)
        if record.state is State.RESOLVING:
            self._progress.pop(record.name, None)
        self._load_failures.pop(record.name, None)
        if record.deployment:
            self._sink.report(self._report(record))
        self.publish_state()

    def loaded(self, record: ModelRecord) -> None:
        """Report an active release that answers after a rollback, or after it couldn't be loaded."""
        if record.state is State.ROLLED_BACK or record.name in self._load_failures:
            self.state_changed(record)
        else:
            self.publish_state()

    def not_loaded(self, record: ModelRecord, error: EdgemlError) -> None:
        """Report that the active release can't be loaded, once for each message; an update reports its own end."""
        if self._load_failures.get(record.name) == error.message:
            return
        self._load_failures[record.name] = error.message
        if record.state is State.ACTIVE and record.deployment:
            failed = {"state": State.ROLLED_BACK, "code": error.code, "message": error.message}
            self._sink.report(self._report(msgspec.structs.replace(record, **failed)))
        self.publish_state()

    def progress(self, record: ModelRecord, progress: Progress) -> None:
        """Report a fetch's progress: its end at once, the rest at most every `PROGRESS_EVERY_S`."""
        self._progress[record.name] = progress
        is_whole = progress.done_bytes == progress.total_bytes
        now_s = self._clock.now()
        # The clock may be set back by hours.
        if is_whole or abs(now_s - self._progress_at_s) >= PROGRESS_EVERY_S:
            self._progress_at_s = now_s
            log.event("fetched", model=record.name, done=progress.done_bytes, of=progress.total_bytes)
            self._sink.report(self._report(record))

    def activated(self, record: ModelRecord, probed: Probed) -> None:
        """Report the end of an update, with the probe's measurements."""
        median_ms = round(probed.median_ms, 2)
        log.event("probed", model=record.name, median_ms=median_ms, peak_rss_bytes=probed.peak_rss_bytes)
        self._sink.report(msgspec.structs.replace(self._report(record), probe_ms=median_ms))

    def compared(self, record: ModelRecord, compared: Compared | None) -> None:
        """Report how a new version compared with the serving one; None when there was nothing to compare."""
        if compared is not None:
            log.event("compared", model=record.name, version=record.version, **msgspec.structs.asdict(compared))
            self._sink.report(msgspec.structs.replace(self._report(record), compared=compared))

    def tuned(self, record: ModelRecord, tuned: Tuned) -> None:
        """Report how the serving release was tuned."""
        log.event("tuned", model=record.name, **msgspec.structs.asdict(tuned))
        self._sink.report(msgspec.structs.replace(self._report(record), tuned=tuned))

    def refused(self, error: EdgemlError) -> None:
        """Report that signed files were refused, once for each message, until they are trusted again."""
        if self._refused is None or error.message != self._refused.message:
            self._refused = error
            log.failure("trust refused", error)
            no_update = ModelRecord(name="", state=State.REJECTED, code=error.code, message=error.message)
            self._sink.report(self._report(no_update))
            self.publish_state()

    def trust_restored(self) -> None:
        """Clear the refusal from the state: the signed files are right again."""
        if self._refused is not None:
            self._refused = None
            self.publish_state()

    def serving_withdrawn(self, found: Mapping[str, str]) -> None:
        """Log the withdrawn releases that serve here, by model; the host finds them by the state of this device."""
        for name, stem in found.items():
            if self._withdrawn.get(name) != stem:
                log.failure("a withdrawn release still serves", trust.withdrawn_error(stem), model=name)
        self._withdrawn = found

    def drift(self) -> None:
        """Publish the state if a drift grade changed, or another quantity drifts, since the last report."""
        now = self._drifts()
        changed = {key: it for key, it in now.items() if _grades(self._reported_drifts.get(key)) != _grades(it)}
        for (name, version), drift in changed.items():
            log.event("drift", model=name, version=version, drift=drift.summary, observed=drift.observed)
        if changed:
            self.publish_state()

    def publish_state(self) -> None:
        """Publish the device's whole state as it is now."""
        board, serving, self._reported_drifts = self._board, self._serving(), self._drifts()
        self._sink.publish_state(
            DeviceState(
                online=True,
                session=0,
                agent=__version__,
                arch=board.arch,
                cpu=board.cpu,
                cpu_features=tuple(sorted(board.cpu_features)),
                memory_bytes=board.memory_bytes,
                runtimes={str(engine): version for engine, version in board.runtimes.items()},
                models={name: self._model(it, serving.get(name)) for name, it in self._store.records().items()},
                code=self._refused.code if self._refused else "",
                message=self._refused.message[:MESSAGE_MAX_CHARS] if self._refused else "",
            )
        )

    def _model(self, record: ModelRecord, manifest: Manifest | None) -> ModelState:
        if manifest is None:
            # An active release that can't be loaded: no version answers, as after a first update that failed.
            return ModelState(version="", state=State.ROLLED_BACK if record.state is State.ACTIVE else record.state)
        return ModelState(
            version=manifest.version,
            state=record.state,
            target=manifest.target,
            format=manifest.file_format,
            drift=self._reported_drifts.get((record.name, manifest.version)),
        )

    def _report(self, record: ModelRecord) -> Report:
        progress = self._progress.get(record.name)
        return Report(
            deployment=record.deployment,
            name=record.name,
            version=record.version,
            state=record.state,
            session=0,
            code=record.code,
            message=record.message[:MESSAGE_MAX_CHARS],
            **(msgspec.structs.asdict(progress) if progress else {}),
        )


def _grades(drift: Drift | None) -> object:
    """Return the parts of a drift whose change is reported: the figures themselves always change a little."""
    return drift and (drift.grade, drift.psi.keys())
