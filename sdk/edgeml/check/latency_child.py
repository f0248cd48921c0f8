"""The program that times two models: `python -m edgeml.check.latency_child`, a `Job` on stdin, a `Reply` on stdout.

It loads what a device loads and nothing else, so that its peak memory is a device's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

from edgeml.check.latency import Job, Reply, Times
from edgeml_core.calls import Refused
from edgeml_core.card import MemoryBound, Prefill
from edgeml_core.errors import EdgemlError
from edgeml_runtime import stdio
from edgeml_runtime.bench import child, memory_bandwidth
from edgeml_runtime.bench.child import RUNS_MIN, WARMUP_RUNS
from edgeml_runtime.engines import Session

#: Runs of each model; more change no median.
RUNS_MAX: Final = 300
#: Runs of each model over a long prompt, after one that is not counted: each takes as long as many tokens.
PREFILL_RUNS: Final = 5
_DECIMALS: Final = 4


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
    fp32 = job.fp32.load(job.threads)
    int8_ms, fp32_ms = _interleaved(one, job.fp32.run(fp32), job.budget_s)
    return Times(
        int8=child.latency(int8_ms),
        fp32=child.latency(fp32_ms),
        load_ms=load_ms,
        first_inference_ms=first_ms,
        peak_rss_bytes=peak,
        prefill=_prefill(job, int8, fp32),
        memory=_memory(job),
    )


def _prefill(job: Job, int8: Session, fp32: Session) -> Prefill | None:
    """Time both on a long prompt, in turns."""
    one, other = job.int8.prefill(int8), job.fp32.prefill(fp32)
    if one is None or other is None:
        return None
    tokens, read = one
    times = [(child.run_ms(read), child.run_ms(other[1])) for _ in range(1 + PREFILL_RUNS)][1:]
    int8_ms, fp32_ms = (round(statistics.median(it), _DECIMALS) for it in zip(*times, strict=True))
    return Prefill(tokens=tokens, fp32_ms=fp32_ms, int8_ms=int8_ms)


def _memory(job: Job) -> MemoryBound | None:
    """Measure how fast this machine reads as much as a token does, in a part of the budget."""
    seconds = min(memory_bandwidth.SECONDS, job.budget_s)
    rate = memory_bandwidth.measure(job.weight_bytes, threads=job.threads, seconds=seconds)
    return MemoryBound(weight_bytes=job.weight_bytes, bytes_per_s=rate) if rate else None


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
