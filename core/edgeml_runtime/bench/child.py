"""A model timed in a process of its own: `python -m edgeml_runtime.bench.child`, a `Job` on stdin, a `Reply` on stdout.

It loads what a device loads and nothing else, so that its peak memory is a device's. Both are msgpack. What it times
lies on this machine already; how the process comes to run here is the business of whoever starts it.
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

from edgeml_core import golden
from edgeml_core.calls import Refused, Reply, Timing, Trial
from edgeml_core.card import Latency
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.golden import TensorData
from edgeml_core.manifest import Manifest
from edgeml_runtime import engines, stdio
from edgeml_runtime.bench import energy, host_load
from edgeml_runtime.engines import Session
from edgeml_runtime.hardware import board
from edgeml_runtime.tensors import Array, from_data

WARMUP_RUNS: Final = 5
#: Fewer give no 99th percentile worth its name.
RUNS_MIN: Final = 30
RUNS_MAX: Final = 100_000
_PEAK: Final = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """A model to time: its file, its manifest, and one input as that model takes it."""

    path: str
    manifest: Manifest
    inputs: Mapping[str, TensorData]

    def load(self, threads: int | None) -> Session:
        """The model in its runtime."""
        return engines.load(Path(self.path), self.manifest, threads=threads)

    def arrays(self) -> dict[str, Array]:
        """The one input as arrays."""
        return {name: from_data(tensor) for name, tensor in self.inputs.items()}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is given."""

    timed: Timed
    threads: int | None
    seconds: float


def of_bundle(folder: Path, manifest: Manifest, timing: Timing) -> Job:
    """The job for the bundle whose files lie in `folder`.

    Raises:
        UsageError: `usage`, for a golden case that there isn't. RejectedError: `bundle-format`.
    """
    cases = golden.decode((folder / manifest.golden.path).read_bytes())
    if timing.case > len(cases):
        hint = f"name one from 1 to {len(cases)}"
        raise UsageError("usage", f"the bundle has no golden case {timing.case}", hint)
    inputs = cases[timing.case - 1].inputs
    timed = Timed(path=str(folder / manifest.model), manifest=manifest, inputs=inputs)
    return Job(timed=timed, threads=timing.threads, seconds=timing.seconds)


def reply(job: Job) -> Reply:
    """What came of the job, on which CPU and with which runtime; an error is an answer, too."""
    this, runtime = board.this_machine(), job.timed.manifest.runtime
    threads = engines.thread_count(job.timed.manifest, job.threads)
    found = Reply(cpu=this.cpu, runtime=this.runtimes.get(runtime.engine, ""), threads=threads)
    try:
        return msgspec.structs.replace(found, trial=run(job))
    except EdgemlError as error:
        return msgspec.structs.replace(found, refused=Refused.of(error))


def run(job: Job) -> Trial:
    """Load the model and time it.

    Raises:
        DeviceError: a runtime is missing or failed.
    """
    begun = time.perf_counter()
    session = job.timed.load(job.threads)
    load_ms = ms_since(begun)
    given = job.timed.arrays()
    first_ms = run_ms(session, given)
    for _ in range(WARMUP_RUNS):
        session.run(given)
    joules, before, begun = energy.read(), host_load.counts(), time.perf_counter()
    times_ms = _times_ms(session, given, job.seconds)
    elapsed_ms = ms_since(begun)
    return Trial(
        latency=latency(times_ms),
        load_ms=round(load_ms, 4),
        first_inference_ms=round(first_ms, 4),
        throughput_per_s=round(1000 * len(times_ms) / elapsed_ms, 2),
        peak_rss_bytes=peak_rss_bytes(),
        energy=energy.between(joules, energy.read(), len(times_ms)),
        host=host_load.judge(before, host_load.counts(), times_ms),
    )


def _times_ms(session: Session, given: Mapping[str, Array], seconds: float) -> list[float]:
    times_ms: list[float] = []
    until = time.perf_counter() + seconds
    while len(times_ms) < RUNS_MIN or (len(times_ms) < RUNS_MAX and time.perf_counter() < until):
        times_ms.append(run_ms(session, given))
    return times_ms


def latency(times_ms: list[float]) -> Latency:
    """The percentiles of times taken after `WARMUP_RUNS` runs."""
    p50, p90, p99 = (round(float(value), 4) for value in np.percentile(times_ms, (50, 90, 99)))
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, runs=len(times_ms), warmup=WARMUP_RUNS)


def run_ms(session: Session, given: Mapping[str, Array]) -> float:
    """How long one run takes, in ms."""
    begun = time.perf_counter()
    session.run(given)
    return ms_since(begun)


def ms_since(begun: float) -> float:
    """The ms since `begun`, by `time.perf_counter`."""
    return (time.perf_counter() - begun) * 1000


def peak_rss_bytes() -> int:
    """The peak of this process alone; getrusage's would be its parent's where that was larger."""
    found = _PEAK.search(Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    sys.exit(stdio.answer(Job, reply))
