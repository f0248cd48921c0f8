"""The process that times a model: `python -m edgeml.check.stopwatch`, a Job on stdin, Times on stdout.

It loads what a device loads and nothing else, so that its peak memory is a device's.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgeml.check.latency import Job, Timed, Times
from edgeml_core.card import Latency
from edgeml_runtime import engines
from edgeml_runtime.engines import Session
from edgeml_runtime.tensors import Array, from_data

WARMUP_RUNS: Final = 5
RUNS_MIN: Final = 30
RUNS_MAX: Final = 300
#: For both models together, once each has had its fewest runs.
BUDGET_S: Final = 1.5
_PEAK: Final = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def main() -> None:
    """Read a job, time it, write the times."""
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(measure(job)))


def measure(job: Job) -> Times:
    """The times of both models; int8 is loaded first, while the process is still as small as a device's.

    Raises:
        DeviceError: a runtime is missing or failed.
    """
    begun = time.perf_counter()
    int8 = load(job.int8, job.threads)
    load_ms = ms_since(begun)
    given, given_fp32 = inputs(job.int8), inputs(job.fp32)
    first_ms = run_ms(int8, given)
    peak = peak_bytes()
    fp32 = load(job.fp32, job.threads)
    int8_ms, fp32_ms = _interleaved((int8, given), (fp32, given_fp32))
    return Times(
        int8=latency(int8_ms),
        fp32=latency(fp32_ms),
        load_ms=load_ms,
        first_inference_ms=first_ms,
        peak_rss_bytes=peak,
    )


def _interleaved(
    one: tuple[Session, Mapping[str, Array]], other: tuple[Session, Mapping[str, Array]]
) -> tuple[list[float], list[float]]:
    """Times of both in turns, so that whatever else the machine does falls on both."""
    for session, inputs in (one, other) * WARMUP_RUNS:
        session.run(inputs)
    first: list[float] = []
    second: list[float] = []
    begun = time.perf_counter()
    while len(first) < RUNS_MIN or (len(first) < RUNS_MAX and time.perf_counter() - begun < BUDGET_S):
        first.append(run_ms(*one))
        second.append(run_ms(*other))
    return first, second


def latency(times_ms: list[float]) -> Latency:
    """The percentiles of times taken after `WARMUP_RUNS` runs."""
    p50, p90, p99 = (round(float(value), 4) for value in np.percentile(times_ms, (50, 90, 99)))
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, runs=len(times_ms), warmup=WARMUP_RUNS)


def load(timed: Timed, threads: int) -> Session:
    """The model in its runtime."""
    return engines.load(Path(timed.path), timed.manifest, threads=threads)


def inputs(timed: Timed) -> dict[str, Array]:
    """The one input as arrays."""
    return {name: from_data(tensor) for name, tensor in timed.inputs.items()}


def run_ms(session: Session, given: Mapping[str, Array]) -> float:
    """How long one run takes, in ms."""
    begun = time.perf_counter()
    session.run(given)
    return ms_since(begun)


def ms_since(begun: float) -> float:
    """The ms since `begun`, by `time.perf_counter`."""
    return (time.perf_counter() - begun) * 1000


def peak_bytes() -> int:
    """The peak of this process alone; getrusage's would be its parent's where that was larger."""
    found = _PEAK.search(Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
