"""A release tried in several ways on this machine, two at a time and in turns; the way that wins must answer rightly.

Runs in the prober's child process, at low priority and for seconds: whatever else the machine does meets both sides of
a comparison. What wins is remembered by `tuned`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, NamedTuple

from edgeml_agent.store import tuning
from edgeml_agent.system import memory
from edgeml_core import golden
from edgeml_core.golden import GoldenCase
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Tuned
from edgeml_runtime import engines, tensors
from edgeml_runtime.bench import child
from edgeml_runtime.bench.batching import measure_run_cost
from edgeml_runtime.engines import Session
from edgeml_runtime.model import Model
from edgeml_runtime.tensors import Array
from edgeml_runtime.verify import golden as golden_check

#: For the whole sweep. A comparison that was begun is finished, one that wasn't is left.
SWEEP_MAX_S: Final = 15.0
#: One comparison: so long, or so many turns; fewer turns than the least say nothing.
DUEL_MAX_S: Final = 1.0
TURNS_MAX: Final = 100
TURNS_MIN: Final = 5
#: Runs of one side in a turn, so that it doesn't only measure what the other left in the caches.
RUNS_A_TURN: Final = 3
#: A step to more threads must bring so much: what they don't take, other models and the system have.
GAIN_MIN: Final = 0.05
#: Prepared weights may cost so much time, and must save so much memory.
LOSS_MAX: Final = 0.03
SAVED_MIN_BYTES: Final = 1024**2
#: Less time than this is nothing that anybody feels: it earns no thread, and pays for memory.
FELT_MS: Final = 0.05
#: What must stay free on the disk.
RESERVE_BYTES: Final = 256 * 1024**2


class RunConfig(NamedTuple):
    """A way to run a model."""

    threads: int
    path: Path


class Sweep:
    """The trials of one release.

    Args:
        folder: the release's, whole and verified.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._cases = golden.decode((folder / manifest.golden.path).read_bytes())
        self._inputs = _arrays(self._cases[0])
        self._ends_s = time.monotonic() + SWEEP_MAX_S

    def run(self) -> Tuned:
        """Find the best way and remember it.

        Raises:
            DeviceError: the model can't be loaded or run, or the best way doesn't reproduce the golden outputs.
        """
        made = tuning.unfinished(self._folder)
        exported = RunConfig(engines.thread_count(self._manifest, None), self._folder / self._manifest.model)
        best = self._with_threads(exported)
        exported_ms, best_ms = self._duel(exported, best)
        prepared, saved_bytes = self._prepared(best, made)
        with closing(self._load(prepared or best)) as session:
            golden_check.check(session, self._manifest, self._cases)
        if not prepared:
            shutil.rmtree(made)
            made.mkdir()
        found = Tuned(
            threads=best.threads,
            share=self._share(best),
            prepared=prepared is not None,
            saved_bytes=saved_bytes,
            exported_ms=round(exported_ms, 4),
            tuned_ms=round(best_ms, 4),
            predicted_ram_bytes=self._manifest.needs.ram_bytes,
            measured_ram_bytes=self._footprint(prepared or best),
        )
        tuning.keep(self._folder, self._manifest, found)
        return found

    def _with_threads(self, exported: RunConfig) -> RunConfig:
        """The way with the fewest threads that more would not make faster by `GAIN_MIN` at any step."""
        best, *others = (exported._replace(threads=count) for count in thread_counts(exported.threads))
        for other in others:
            if self._has_time():
                best_ms, other_ms = self._duel(best, other)
                best = other if other_ms < best_ms * (1 - GAIN_MIN) - FELT_MS else best
        return best

    def _prepared(self, best: RunConfig, made: Path) -> tuple[RunConfig | None, int]:
        """The same way with weights prepared on the disk, where that pays; and what it saves, in bytes of memory."""
        size_bytes = sum(path.stat().st_size for path in self._folder.iterdir() if path.is_file())
        if not self._has_time() or shutil.disk_usage(made).free < 2 * size_bytes + RESERVE_BYTES:
            return None, 0
        target = made / Path(self._manifest.model).name
        if not engines.prepare(best.path, target, self._manifest):
            return None, 0
        other = best._replace(path=target)
        saved_bytes = self._footprint(best) - self._footprint(other)
        best_ms, other_ms = self._duel(best, other)
        pays = saved_bytes >= SAVED_MIN_BYTES and other_ms <= best_ms * (1 + LOSS_MAX) + FELT_MS
        return (other, saved_bytes) if pays else (None, 0)

    def _duel(self, one: RunConfig, other: RunConfig) -> tuple[float, float]:
        """The median times of a run each way, in ms; of one way with itself, once."""
        with ExitStack() as opened:
            sessions = [opened.enter_context(closing(self._load(way))) for way in dict.fromkeys((one, other))]
            times_ms = list(zip(*self._turns(sessions), strict=True))
        medians = [statistics.median(column) for column in times_ms]
        return medians[0], medians[-1]

    def _turns(self, sessions: Sequence[Session]) -> Iterator[list[float]]:
        begun_s = time.monotonic()
        for turn in range(TURNS_MAX):
            if turn >= TURNS_MIN and time.monotonic() - begun_s > DUEL_MAX_S:
                return
            yield [min(child.run_ms(it, self._inputs) for _ in range(RUNS_A_TURN)) for it in sessions]

    def _share(self, best: RunConfig) -> int:
        """How many requests should share a run, with many repeats."""
        with closing(Model.open(self._folder, self._manifest, threads=best.threads)) as model:
            cases = [_arrays(case) for case in self._cases]
            return measure_run_cost(model, cases, repeats=TURNS_MAX // 10).batch_size

    def _footprint(self, way: RunConfig) -> int:
        """The memory that a loaded model takes for itself alone, in bytes: what is mapped from a file isn't."""
        memory.release()
        before_bytes = memory.anonymous_bytes()
        with closing(self._load(way)) as session:
            session.run(self._inputs)
            return max(0, memory.anonymous_bytes() - before_bytes)

    def _load(self, way: RunConfig) -> Session:
        session = engines.load(way.path, self._manifest, threads=way.threads)
        session.run(self._inputs)
        return session

    def _has_time(self) -> bool:
        return time.monotonic() < self._ends_s


def thread_counts(exported: int) -> list[int]:
    """The numbers of threads worth trying, the fewest first: powers of two, the bundle's own, all cores."""
    cores = len(os.sched_getaffinity(0))
    powers = (1 << shift for shift in range(cores.bit_length()))
    return sorted({exported, cores, *(count for count in powers if count <= cores)})


def _arrays(case: GoldenCase) -> Mapping[str, Array]:
    return {name: tensors.from_data(data) for name, data in case.inputs.items()}
