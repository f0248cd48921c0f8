"""The process that benches one model: `python -m edgeml.bench.trial`, a Job on stdin, a Trial on stdout.

It loads what a device loads and nothing else, as `edgeml.check.stopwatch` does, whose parts it uses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from edgeml.bench import energy, host
from edgeml.bench.host import Host
from edgeml.check import stopwatch
from edgeml.check.latency import Timed
from edgeml_core.card import Energy, Latency
from edgeml_runtime.engines import Session
from edgeml_runtime.tensors import Array

#: Fewer give no 99th percentile worth its name.
RUNS_MIN: Final = 30
RUNS_MAX: Final = 100_000


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is given: the model with one input, and how long to run it after the warm-up."""

    timed: Timed
    threads: int
    budget_s: float


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What the process answers. `throughput_per_s` is of inferences one after another, batch 1."""

    latency: Latency
    load_ms: float
    first_inference_ms: float
    throughput_per_s: float
    peak_rss_bytes: int
    energy: Energy
    host: Host


def main() -> None:
    """Read a job, run it, write the trial."""
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(run(job)))


def run(job: Job) -> Trial:
    """Load the model and time it.

    Raises:
        DeviceError: a runtime is missing or failed.
    """
    begun = time.perf_counter()
    session = stopwatch.load(job.timed, job.threads)
    load_ms = stopwatch.ms_since(begun)
    given = stopwatch.inputs(job.timed)
    first_ms = stopwatch.run_ms(session, given)
    for _ in range(stopwatch.WARMUP_RUNS):
        session.run(given)
    joules, before, begun = energy.read(), host.counts(), time.perf_counter()
    times_ms = _times_ms(session, given, job.budget_s)
    elapsed_ms = stopwatch.ms_since(begun)
    return Trial(
        latency=stopwatch.latency(times_ms),
        load_ms=round(load_ms, 4),
        first_inference_ms=round(first_ms, 4),
        throughput_per_s=round(1000 * len(times_ms) / elapsed_ms, 2),
        peak_rss_bytes=stopwatch.peak_bytes(),
        energy=energy.between(joules, energy.read(), len(times_ms)),
        host=host.judge(before, host.counts(), times_ms),
    )


def _times_ms(session: Session, given: Mapping[str, Array], budget_s: float) -> list[float]:
    times_ms: list[float] = []
    until = time.perf_counter() + budget_s
    while len(times_ms) < RUNS_MIN or (len(times_ms) < RUNS_MAX and time.perf_counter() < until):
        times_ms.append(stopwatch.run_ms(session, given))
    return times_ms


if __name__ == "__main__":
    main()
