"""The candidates of one target and format, tried in the order of its recipes until one passes the gate.

Each step fills in the attempt: quantize -> check -> time -> prove. The first that fails ends it; what was found stays.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from edgeml import workspace
from edgeml.check import gate, latency
from edgeml.check.candidate import Candidate
from edgeml.check.gate import FASTER_RUNS, is_slow
from edgeml.exporters import fp32
from edgeml.exporters.source import Built
from edgeml.pipeline import pack, target_cpu
from edgeml.pipeline.attempt import Attempt
from edgeml.pipeline.context import Job
from edgeml.quantize import apply, recipes
from edgeml_core.errors import EdgemlError, GateFailed
from edgeml_core.manifest import Format
from edgeml_core.profile import Profile, Recipe
from edgeml_runtime.bench.child import Timed
from edgeml_runtime.inputs import preparer
from edgeml_runtime.tensors import Array

#: What a failed candidate raises; the next one is tried then.
_FAILED: Final = frozenset({"gate-failed", "model-unsupported", "runtime-failed", "probe-crashed"})
#: Inputs that the sensitivity of nodes is measured on; their order settles with few.
SAMPLES_MAX: Final = 8


def attempts(job: Job, profile: Profile, file_format: Format) -> list[Attempt]:
    """All attempts made, the last of which passed if any did.

    Raises:
        UsageError: the format has no way for the model, or the target no such recipe.
    """
    asked = job.request
    order = recipes.plan(profile, file_format, job.source.kind, quantize=asked.quantize, recipe=asked.recipe)
    whole = _export(job, file_format)
    made: list[Attempt] = []
    for recipe in order:
        made.append(_attempt(job, whole, recipe, profile))
        if made[-1].error is None:
            break
    return made


def _attempt(job: Job, whole: Built, recipe: Recipe, profile: Profile) -> Attempt:
    attempt = Attempt(file_format=whole.file_format, recipe=recipe)
    try:
        candidate = attempt.candidate = _quantize(job, whole, recipe, profile)
        job.limits.require_fit(candidate)
        _check(job, attempt, candidate)
        _time(job, attempt, candidate)
        _prove(job, attempt, candidate)
    except EdgemlError as error:
        if error.code not in _FAILED or workspace.ran_full(error):
            raise
        attempt.error = error
    return attempt


def _export(job: Job, file_format: Format) -> Built:
    def make() -> Built:
        job.progress.stage(f"export {file_format}")
        return fp32.write(job.source, file_format, job.new_folder())

    return job.once(("fp32", file_format), make)


def _quantize(job: Job, whole: Built, recipe: Recipe, profile: Profile) -> Candidate:
    if recipes.family(recipe) == "static" and not job.checks.calibration.rows:
        raise GateFailed("gate-failed", recipes.UNCALIBRATED, "give real rows with --calibrate")

    def make() -> Built:
        job.progress.stage(f"quantize {whole.file_format} {recipe}")
        with workspace.quiet(job.folder):
            return apply.apply(recipe, whole, job.new_folder(), _samples(job, whole, recipe, profile))

    model = job.once(("quantized", whole.file_format, recipe), make)
    manifest = pack.draft(model, job.source, profile, job.release)
    return Candidate(model=model, fp32=whole, profile=profile, manifest=manifest)


def _samples(job: Job, whole: Built, recipe: Recipe, profile: Profile) -> list[dict[str, Array]]:
    """Real inputs as the model takes them: all calibration rows for static int8, some inputs for sensitivity."""
    if recipes.family(recipe) == "static":
        items = job.checks.calibration.items
    elif recipes.is_mixed(recipe):
        items = list(job.checks.inputs.items[:SAMPLES_MAX])
    else:
        return []
    prepare = preparer(whole.folder, pack.draft(whole, job.source, profile, job.release))
    return [prepare([item]).tensors for item in items]


def _check(job: Job, attempt: Attempt, candidate: Candidate) -> None:
    job.progress.stage(f"check {candidate.manifest.stem} {candidate.model.recipe}")
    with workspace.quiet(job.folder):
        attempt.findings = job.checks.run(candidate)
    job.limits.require_same(attempt.findings)


def _time(job: Job, attempt: Attempt, candidate: Candidate) -> None:
    """Time the candidate against fp32; one that lost is timed once more, and loses if it does again."""
    manifest = candidate.manifest
    threads = min(manifest.runtime.threads, os.cpu_count() or 1)

    def measure() -> latency.Times:
        job.progress.stage(f"time {manifest.stem} {candidate.model.recipe}")
        int8 = _timed(job, candidate)
        reference = msgspec.structs.replace(int8, path=str(candidate.fp32.path))
        return latency.measure(
            latency.Job(int8=int8, fp32=reference, threads=threads, budget_s=job.request.budget.paired_s)
        )

    def make() -> latency.Times:
        times = measure()
        return measure() if is_slow(attempt.recipe, job.source.kind, times) else times

    attempt.times = job.once(("times", candidate.key, threads), make)
    job.limits.require_fast(attempt.recipe, job.source.kind, attempt.times)


def is_faster(job: Job, one: Attempt, other: Attempt) -> bool:
    """Whether a candidate that passed is faster by far than another, in each of a few runs in turns."""
    assert one.candidate is not None  # noqa: S101 -- what passed has been through every step
    assert other.candidate is not None  # noqa: S101 -- as above
    threads = min(one.candidate.manifest.runtime.threads, os.cpu_count() or 1)
    in_turns = latency.Job(
        int8=_timed(job, one.candidate),
        fp32=_timed(job, other.candidate),
        threads=threads,
        budget_s=job.request.budget.paired_s,
    )
    for _ in range(FASTER_RUNS):
        job.progress.stage(f"time {one.candidate.manifest.stem} against {other.file_format}")
        if not gate.is_faster(latency.measure(in_turns)):
            return False
    return True


def _timed(job: Job, candidate: Candidate) -> Timed:
    return latency.timed(candidate.model.path, candidate.manifest, job.checks.typical_input(candidate))


def _prove(job: Job, attempt: Attempt, candidate: Candidate) -> None:
    if attempt.findings:
        attempt.proved = target_cpu.proved(job, candidate, attempt.findings)
