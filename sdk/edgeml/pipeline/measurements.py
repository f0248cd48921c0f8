"""What this machine measured of the bundle that ships: the gate's times, and a trial of the bundle alone."""

from __future__ import annotations

import os

from edgeml import bench
from edgeml.check import latency
from edgeml.check.candidate import Candidate
from edgeml.pipeline.attempt import Attempt
from edgeml.pipeline.context import Job
from edgeml.pipeline.format_choice import Chosen
from edgeml_core import chunks
from edgeml_core import manifest as manifests
from edgeml_core.calls import Trial
from edgeml_core.card import Measurements, Verified
from edgeml_core.manifest import Manifest
from edgeml_runtime.bench import child


def measurements(job: Job, attempt: Attempt, manifest: Manifest, chosen: Chosen) -> Measurements:
    """What goes beside a bundle.

    Args:
        attempt: the one that ships.
        manifest: of the sealed bundle.
        chosen: brings the other attempts.

    Raises:
        DeviceError: `runtime-failed`.
    """
    candidate, times = attempt.candidate, attempt.times
    assert candidate is not None  # noqa: S101 -- what passed has been through every step
    assert times is not None  # noqa: S101 -- as above
    threads = min(manifest.runtime.threads, os.cpu_count() or 1)
    alone = job.once(("trial", candidate.key, threads), lambda: _alone(job, candidate, threads))
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
            *(Verified(cpu=it.cpu, how=it.how, ok=it.how == "emulated", note=it.note) for it in attempt.proved),
        ),
        candidates=tuple(it.timed for it in chosen.attempts if it.timed),
    )


def _alone(job: Job, candidate: Candidate, threads: int) -> Trial:
    """The bundle's model in a process of its own, with nothing beside it that would take its time or energy."""
    job.progress.stage(f"bench {candidate.manifest.stem}")
    given = latency.timed(candidate.model.path, candidate.manifest, job.checks.typical_input(candidate))
    return bench.figures(bench.here(child.Job(timed=given, threads=threads, seconds=job.request.budget.alone_s)))
