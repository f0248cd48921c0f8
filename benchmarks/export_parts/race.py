"""Contenders timed in turns.

Each contender has a process of its own, so that no runtime's threads disturb another's. A round is one short burst of
each, so that the load of other programs falls on all.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeml_runtime.bench.host_load import OTHER_CORES_MAX

RUNNER: Final = Path(__file__).with_name("runner.py")
#: Where a runner's imports are.
PATHS: Final = tuple(str(Path(__file__).parents[2] / it) for it in ("core", "benchmarks"))
#: Seconds of a burst: long enough for a median, short enough that the host's speed stays the same over a round.
BURST_S: Final = 0.15
#: Runs of a burst, at least and at most: a tiny model's burst, too, lasts many ticks of the host's CPU clock.
BURST_RUNS: Final = (1, 5000)
#: Characters of a failed process's log in the error.
LOG_CHARS: Final = 1000
#: Idle seconds before a burst: a runtime's threads spin for a moment after their last run.
REST_S: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One model in one runtime.

    Attributes:
        name: the contender's name in the report.
        kind: one of the runner's kinds of runtime.
        path: the model's file or folder.
        python: the interpreter of the environment that has the runtime.
        runner: the program that it runs.
    """

    name: str
    kind: str
    path: Path
    python: Path = Path(sys.executable)
    runner: Path = RUNNER


class NotStartedError(RuntimeError):
    """A contender's process ended before it had loaded its model.

    Args:
        name: of the contender.
        code: the process's exit code; a signal's number below zero.
        log: the end of its log.
    """

    def __init__(self, name: str, code: int, log: str) -> None:
        super().__init__(f"{name} didn't start: exit code {code}: {log}")
        last = log.strip().rpartition("\n")[2]
        #: One line for a report.
        self.reason: Final = f"exit code {code}: {last}" if last else f"exit code {code}"


#: Sends a command to a contender's process, and returns the reply.
Request = Callable[[str], Any]


@dataclass
class Result:
    """One contender's bursts: a median each, and the cores that other processes kept busy meanwhile."""

    contender: Contender
    outputs: np.ndarray | None = None
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


def race(contenders: Sequence[Contender], inputs: Path, *, threads: int, rounds: int, limit_s: float) -> list[Result]:
    """Time all contenders until enough rounds were quiet, or the time is over; at least one round.

    Rounds in which other processes took more than `OTHER_CORES_MAX` cores are left out of all contenders' results
    when enough quiet ones remain; otherwise all rounds count.

    Args:
        contenders: the models, in the order of their turns.
        inputs: an .npz file of arrays [rows, ...]; the first row is timed, all rows are compared.
        threads: the number for each runtime.
        rounds: the number of quiet rounds that are enough.
        limit_s: the time after which no round begins.
    """
    with ExitStack() as stack:
        requests = [stack.enter_context(running(it, inputs, threads)) for it in contenders]
        results = [Result(it, outputs(ask, inputs)) for it, ask in zip(contenders, requests, strict=True)]
        commands = [f"burst {burst_runs(ask, 'burst')}" for ask in requests]
        return turns(results, requests, commands, rounds=rounds, limit_s=limit_s)


def turns(
    results: list[Result], requests: Sequence[Request], commands: Sequence[str], *, rounds: int, limit_s: float
) -> list[Result]:
    """Time one burst of each contender after the other; see `race`.

    Args:
        results: the contenders, without bursts.
        requests: to their processes.
        commands: the burst of each.
        rounds: as of `race`.
        limit_s: as of `race`.
    """
    until_s = time.monotonic() + limit_s
    while not results[0].medians_ms or (time.monotonic() < until_s and len(quiet_rounds(results)) < rounds):
        for result, ask, command in zip(results, requests, commands, strict=True):
            time.sleep(REST_S)
            burst = ask(command)
            result.medians_ms.append(statistics.median(burst["times_ms"]))
            result.other_cores.append(burst["other_cores"] or 0.0)
    return _without_busy_rounds(results, rounds)


def quiet_rounds(results: Sequence[Result]) -> list[int]:
    """The rounds in which no contender was disturbed."""
    rounds = zip(*(result.other_cores for result in results), strict=True)
    return [number for number, busy in enumerate(rounds) if max(busy) <= OTHER_CORES_MAX]


def ratio(slow: Result, fast: Result) -> float:
    """How many times as fast `fast` is: the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(slow.medians_ms, fast.medians_ms, strict=True))


def _without_busy_rounds(results: list[Result], rounds: int) -> list[Result]:
    quiet = quiet_rounds(results)
    if len(quiet) < rounds:
        return results
    for result in results:
        result.medians_ms = [result.medians_ms[number] for number in quiet]
        result.other_cores = [result.other_cores[number] for number in quiet]
    return results


def burst_runs(ask: Request, command: str) -> int:
    """Return the number of runs that a burst by this command takes."""
    one_ms = statistics.median(ask(f"{command} 2")["times_ms"])
    least, most = BURST_RUNS
    return max(least, min(most, int(BURST_S * 1000 / one_ms)))


def outputs(ask: Request, inputs: Path) -> np.ndarray:
    """Return the outputs of all rows, which pass through a file beside the inputs."""
    path = inputs.with_name("outputs.npy")
    ask(f"outputs {path}")
    return np.load(path)


@contextmanager
def running(contender: Contender, inputs: Path, threads: int) -> Iterator[Request]:
    """Run a contender's process.

    Raises:
        NotStartedError: it couldn't load its model.
    """
    command = [contender.python, contender.runner, contender.kind, contender.path, str(threads), inputs]
    log = inputs.with_name("runner.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])},
        ) as process,
    ):
        if process.stdout.readline().strip() != "ready":
            code = process.wait()
            raise NotStartedError(contender.name, code, log.read_text()[-LOG_CHARS:])

        def ask(command: str) -> Any:  # noqa: ANN401 -- what JSON has
            process.stdin.write(f"{command}\n")
            return json.loads(process.stdout.readline())

        try:
            yield ask
        finally:
            process.stdin.close()
