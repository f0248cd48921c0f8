"""The program that times two models: `python -m edgeml.check.latency_child`, a `Job` on stdin, a `Reply` on stdout.

It loads what a device loads and nothing else, so that its peak memory is a device's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from edgeml.check.latency import Job, Reply, Times
from edgeml_core.calls import Refused
from edgeml_core.errors import EdgemlError
from edgeml_runtime import stdio
from edgeml_runtime.bench import child
from edgeml_runtime.bench.child import RUNS_MIN, WARMUP_RUNS

#: Runs of each model; more change no median.
RUNS_MAX: Final = 300


def reply(job: Job) -> Reply:
    """Time both models; an error of a runtime is a reply, too."""
    try:
        return Reply(times=measure(job))
    except EdgemlError as error:
        return Reply(refused=Refused.of(error))


def measure(job: Job) -> Times:
    """Time both models. int8 is loaded first, while the process is still as small as a device's.

    Raises:
        DeviceError: a runtime is missing or failed.
    """
    begun = time.perf_counter()
    int8 = job.int8.load(job.threads)
    load_ms = child.ms_since(begun)
    one = job.int8.run(int8)
    first_ms = child.run_ms(one)
    peak = child.peak_rss_bytes()
    other = job.fp32.run(job.fp32.load(job.threads))
    int8_ms, fp32_ms = _interleaved(one, other, job.budget_s)
    return Times(
        int8=child.latency(int8_ms),
        fp32=child.latency(fp32_ms),
        load_ms=load_ms,
        first_inference_ms=first_ms,
        peak_rss_bytes=peak,
    )


def _interleaved(
    one: Callable[[], object], other: Callable[[], object], budget_s: float
) -> tuple[list[float], list[float]]:
    """Time both in turns, so that other load on the machine falls on both.

    Args:
        one: a run of the first model.
        other: a run of the second.
        budget_s: seconds for both models together; each has its fewest runs in any case.
    """
    for run in (one, other) * WARMUP_RUNS:
        run()
    first: list[float] = []
    second: list[float] = []
    begun = time.perf_counter()
    while len(first) < RUNS_MIN or (len(first) < RUNS_MAX and time.perf_counter() - begun < budget_s):
        first.append(child.run_ms(one))
        second.append(child.run_ms(other))
    return first, second


if __name__ == "__main__":
    sys.exit(stdio.answer(Job, reply))
