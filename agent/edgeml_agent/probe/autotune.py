"""Tuning: compare ways to run a release on this host, in pairs and in turns; the fastest must pass the golden check.

Tuning runs in the prober's child process, at low priority and for seconds. Other load on the host affects both sides of
a comparison alike. `store.tuning` stores the result.
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

#: Seconds for all comparisons. One that has begun is finished, the others are skipped.
TUNING_MAX_S: Final = 15.0
#: Seconds or turns of one comparison. Below the fewest turns a median means little.
COMPARISON_MAX_S: Final = 1.0
TURNS_MAX: Final = 100
TURNS_MIN: Final = 5
#: Runs of one side in a turn: the first run also pays for the caches that the other side has filled.
RUNS_A_TURN: Final = 3
#: Fraction of time that more threads must save: other models and the system get the unused cores.
GAIN_MIN: Final = 0.05
#: Fraction of time that prepared weights may cost, and bytes of memory that they must save.
LOSS_MAX: Final = 0.03
SAVED_MIN_BYTES: Final = 1024**2
#: Milliseconds below which no user notices a gain or loss: it justifies no thread, and pays for memory.
NOTICEABLE_MS: Final = 0.05
#: Bytes that stay free on the disk.
RESERVE_BYTES: Final = 256 * 1024**2


class RunConfig(NamedTuple):
    """One way to run a model."""

    threads: int
    path: Path


class Tuner:
    """The comparisons for one release.

    Args:
        folder: the release's, whole and verified.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._cases = golden.decode((folder / manifest.golden.path).read_bytes())
        self._inputs = _arrays(self._cases[0])
        self._ends_s = time.monotonic() + TUNING_MAX_S

    def run(self) -> Tuned:
        """Find the fastest way to run the release and store it.

        Raises:
            DeviceError: the model can't be loaded or run, or the fastest way doesn't reproduce the golden outputs.
        """
        draft = tuning.make_draft(self._folder)
        exported = RunConfig(engines.thread_count(self._manifest, None), self._folder / self._manifest.model)
        best = self._choose_threads(exported)
        exported_ms, best_ms = self._compare(exported, best)
        prepared, saved_bytes = self._prepare(best, draft)
        with closing(self._load(prepared or best)) as session:
            golden_check.check(session, self._manifest, self._cases)
        if not prepared:
            shutil.rmtree(draft)
            draft.mkdir()
        found = Tuned(
            threads=best.threads,
            batch_size=self._batch_size(best),
            prepared=prepared is not None,
            saved_bytes=saved_bytes,
            exported_ms=round(exported_ms, 4),
            tuned_ms=round(best_ms, 4),
            predicted_ram_bytes=self._manifest.needs.ram_bytes,
            measured_ram_bytes=self._memory_bytes(prepared or best),
        )
        tuning.commit(self._folder, self._manifest, found)
        return found

    def _choose_threads(self, exported: RunConfig) -> RunConfig:
        """Return the fewest threads such that no larger number is faster by `GAIN_MIN`."""
        best, *others = (exported._replace(threads=count) for count in thread_counts(exported.threads))
        for other in others:
            if self._has_time():
                best_ms, other_ms = self._compare(best, other)
                best = other if other_ms < best_ms * (1 - GAIN_MIN) - NOTICEABLE_MS else best
        return best

    def _prepare(self, best: RunConfig, draft: Path) -> tuple[RunConfig | None, int]:
        """Prepare the weights on the disk, where that pays.

        Returns:
            The way to run with prepared weights, None if it doesn't pay; and the bytes of memory that it saves.
        """
        size_bytes = sum(path.stat().st_size for path in self._folder.iterdir() if path.is_file())
        if not self._has_time() or shutil.disk_usage(draft).free < 2 * size_bytes + RESERVE_BYTES:
            return None, 0
        target = draft / Path(self._manifest.model).name
        if not engines.prepare(best.path, target, self._manifest):
            return None, 0
        other = best._replace(path=target)
        saved_bytes = self._memory_bytes(best) - self._memory_bytes(other)
        best_ms, other_ms = self._compare(best, other)
        pays = saved_bytes >= SAVED_MIN_BYTES and other_ms <= best_ms * (1 + LOSS_MAX) + NOTICEABLE_MS
        return (other, saved_bytes) if pays else (None, 0)

    def _compare(self, one: RunConfig, other: RunConfig) -> tuple[float, float]:
        """Return the median times of a run each way, in ms. A way compared with itself runs once."""
        with ExitStack() as opened:
            sessions = [opened.enter_context(closing(self._load(config))) for config in dict.fromkeys((one, other))]
            times_ms = list(zip(*self._turns(sessions), strict=True))
        medians = [statistics.median(column) for column in times_ms]
        return medians[0], medians[-1]

    def _turns(self, sessions: Sequence[Session]) -> Iterator[list[float]]:
        runs = [child.timed_run(it, self._manifest, self._inputs) for it in sessions]
        begun_s = time.monotonic()
        for turn in range(TURNS_MAX):
            if turn >= TURNS_MIN and time.monotonic() - begun_s > COMPARISON_MAX_S:
                return
            yield [min(child.run_ms(it) for _ in range(RUNS_A_TURN)) for it in runs]

    def _batch_size(self, best: RunConfig) -> int:
        """Return how many requests should run together."""
        with closing(Model.open(self._folder, self._manifest, threads=best.threads)) as model:
            cases = [_arrays(case) for case in self._cases]
            return measure_run_cost(model, cases, repeats=TURNS_MAX // 10).batch_size

    def _memory_bytes(self, config: RunConfig) -> int:
        """Return the memory of a loaded model in bytes, without the pages that are mapped from a file."""
        memory.release()
        before_bytes = memory.anonymous_bytes()
        with closing(self._load(config)) as session:
            session.run(self._inputs)
            return max(0, memory.anonymous_bytes() - before_bytes)

    def _load(self, config: RunConfig) -> Session:
        session = engines.load(config.path, self._manifest, threads=config.threads)
        session.run(self._inputs)
        return session

    def _has_time(self) -> bool:
        return time.monotonic() < self._ends_s


def thread_counts(exported: int) -> list[int]:
    """Return the numbers of threads to try, ascending: powers of two, the bundle's own, all cores."""
    cores = len(os.sched_getaffinity(0))
    powers = (1 << shift for shift in range(cores.bit_length()))
    return sorted({exported, cores, *(count for count in powers if count <= cores)})


def _arrays(case: GoldenCase) -> Mapping[str, Array]:
    return {name: tensors.from_data(data) for name, data in case.inputs.items()}
