"""Contenders timed in turns.

Each has a process of its own, so that no runtime's threads disturb another's, and one short burst a round, so that
whatever else the machine does falls on all.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeml_runtime.bench.host_load import OTHER_CORES_MAX

RUNNER = Path(__file__).with_name("runner.py")
BURST_S = 0.15
BURST_RUNS = (1, 40)
#: Idle time before a burst: a runtime's threads go on spinning for a moment after their last run.
REST_S = 0.05
QUIET_ROUNDS = 15


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What runs: `kind` is one of the runner's."""

    name: str
    kind: str
    path: Path


@dataclass
class Result:
    """One contender's bursts: a median each, and the cores that other processes kept busy meanwhile."""

    contender: Contender
    answers: np.ndarray
    medians_ms: list[float] = field(default_factory=list)
    other_cores: list[float] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        """The median of the bursts' medians."""
        return statistics.median(self.medians_ms)

    @property
    def best_ms(self) -> float:
        """The fastest burst's median: the least disturbed one."""
        return min(self.medians_ms)


def race(contenders: Sequence[Contender], inputs: Path, *, threads: int, limit_s: float) -> list[Result]:
    """Time all contenders until enough rounds were quiet, or the time is over.

    Rounds in which other processes took more than `OTHER_CORES_MAX` cores are left out of all contenders' results
    when enough quiet ones remain; otherwise all rounds count.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(it, inputs, threads)) for it in contenders]
        results = [Result(it, _answers(process, inputs)) for it, process in zip(contenders, processes, strict=True)]
        counts = [_burst_runs(process) for process in processes]
        until = time.monotonic() + limit_s
        while time.monotonic() < until and len(quiet_rounds(results)) < QUIET_ROUNDS:
            for result, process, count in zip(results, processes, counts, strict=True):
                time.sleep(REST_S)
                burst = _ask(process, f"burst {count}")
                result.medians_ms.append(statistics.median(burst["times_ms"]))
                result.other_cores.append(burst["other_cores"])
    return _settled(results)


def quiet_rounds(results: Sequence[Result]) -> list[int]:
    """The rounds in which no contender was disturbed."""
    rounds = zip(*(result.other_cores for result in results), strict=True)
    return [number for number, busy in enumerate(rounds) if max(busy) <= OTHER_CORES_MAX]


def ratio(slow: Result, fast: Result) -> float:
    """How many times as fast `fast` is: the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(slow.medians_ms, fast.medians_ms, strict=True))


def _settled(results: list[Result]) -> list[Result]:
    quiet = quiet_rounds(results)
    if len(quiet) < QUIET_ROUNDS:
        return results
    for result in results:
        result.medians_ms = [result.medians_ms[number] for number in quiet]
        result.other_cores = [result.other_cores[number] for number in quiet]
    return results


def _burst_runs(process: subprocess.Popen[str]) -> int:
    one_ms = statistics.median(_ask(process, "burst 2")["times_ms"])
    least, most = BURST_RUNS
    return max(least, min(most, int(BURST_S * 1000 / one_ms)))


def _answers(process: subprocess.Popen[str], inputs: Path) -> np.ndarray:
    path = inputs.with_name("answers.npy")
    _ask(process, f"answer {path}")
    return np.load(path)


@contextmanager
def _process(contender: Contender, inputs: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, RUNNER, contender.kind, contender.path, str(threads), inputs]
    log = inputs.with_name("runner.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
        ) as process,
    ):
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{contender.name} didn't start: {log.read_text()[-1000:]}")
        try:
            yield process
        finally:
            process.stdin.close()


def _ask(process: subprocess.Popen[str], line: str) -> dict[str, list[float]]:
    process.stdin.write(f"{line}\n")
    return json.loads(process.stdout.readline())
