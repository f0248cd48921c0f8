"""The measurements beside a bundle: the gate's times, the choice of its format, and a benchmark of the bundle alone."""

from __future__ import annotations

import math
import os
from typing import Final

from msgspec import UNSET

from edgeml import bench
from edgeml.check import latency
from edgeml.check.candidate import Candidate
from edgeml.pipeline.attempt import Passed
from edgeml.pipeline.comparison import Comparison
from edgeml.pipeline.context import Job
from edgeml.pipeline.format_choice import Chosen
from edgeml_core import chunks
from edgeml_core import manifest as manifests
from edgeml_core.calls import BenchmarkResult
from edgeml_core.card import Compared, Measurements, Verified
from edgeml_core.manifest import Manifest
from edgeml_runtime.bench import child

_DECIMALS: Final = 4


def measure(job: Job, passed: Passed, manifest: Manifest, chosen: Chosen) -> Measurements:
    """Collect the measurements of the bundle that ships, and benchmark it alone.

    Args:
        passed: the candidate that ships.
        manifest: of the bundle.
        chosen: has the other attempts.

    Raises:
        DeviceError: `runtime-failed`.
    """
    candidate, times = passed.candidate, passed.times
    threads = min(manifest.runtime.threads, os.cpu_count() or 1)
    alone = job.once(("bench", candidate.key, threads), lambda: _alone(job, candidate, threads))
    here = latency.cpu_name()
    return Measurements(
        manifest_sha256=chunks.sha256(manifests.encode(manifest)),
        cpu=here,
        threads=threads,
        fp32=times.fp32,
        int8=times.int8,
        load_ms=times.load_ms,
        first_inference_ms=times.first_inference_ms,
        peak_rss_bytes=times.peak_rss_bytes,
        throughput_per_s=alone.throughput_per_s,
        energy=alone.energy,
        doubts=alone.host.doubts,
        verified_on=(
            Verified(cpu=here, how="measured", ok=True),
            *(
                Verified(cpu=it.cpu, how=it.how, ok=it.how == "emulated", note=it.note)
                for it in passed.on_target.verifications
            ),
        ),
        candidates=tuple(it.timed for it in chosen.attempts if it.timed),
        compared=_compared(chosen.comparison) if chosen.comparison else (),
        prefill=times.prefill or UNSET,
        memory=times.memory or UNSET,
    )


def _compared(found: Comparison) -> tuple[Compared, ...]:
    return tuple(
        Compared(
            format=it.file_format,
            expected_ms=round(it.expected_ms, _DECIMALS),
            time_ratio=round(it.time_ratio, _DECIMALS),
            interval=_rounded(it.interval) if math.isfinite(it.interval[1]) else None,
            turns=found.turns,
        )
        for it in found.ratios
    )


def _rounded(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    return round(low, _DECIMALS), round(high, _DECIMALS)


def _alone(job: Job, candidate: Candidate, threads: int) -> BenchmarkResult:
    """Benchmark the bundle's model in a process of its own, with nothing beside it."""
    job.progress.stage(f"bench {candidate.manifest.stem}")
    given = latency.timed(candidate.model.path, candidate.manifest, job.checks.typical_input(candidate))
    seconds = job.request.budget.alone_s
    return bench.result(bench.run_here(child.Job(model=given, threads=threads, seconds=seconds)))
