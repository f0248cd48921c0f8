"""The candidates of one target and format, tried in the order of its recipes until one passes the gate.

The steps of an attempt: quantize -> check -> time -> verify on the target's CPU. The first step that fails ends it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from edgeml import workspace
from edgeml.check import against_oracle, latency, length_mix, memory, turns
from edgeml.check.candidate import Candidate, opened
from edgeml.check.checks import Findings
from edgeml.check.gate import is_slow, is_useless
from edgeml.check.weight_bytes import weight_bytes
from edgeml.exporters import fp32
from edgeml.exporters.source import FLOAT, Built
from edgeml.oracle import library
from edgeml.oracle.protocol import Reply
from edgeml.pipeline import comparison, pack, target_cpu
from edgeml.pipeline.attempt import Attempt, Failed, Passed
from edgeml.pipeline.comparison import Comparison, Entrant
from edgeml.pipeline.context import Job
from edgeml.quantize import apply, recipes
from edgeml.quantize.recipes import Recipe
from edgeml_core.card import Oracle
from edgeml_core.errors import EdgemlError, GateFailed
from edgeml_core.manifest import ENGINES, Format
from edgeml_core.profile import Profile, RecipeName
from edgeml_runtime.bench.child import TimedModel
from edgeml_runtime.inputs import preparer
from edgeml_runtime.tensors import Array, to_data

#: Errors that end one attempt; the next recipe is tried after them.
_FAILURES: Final = frozenset({"gate-failed", "model-unsupported", "runtime-failed", "probe-crashed"})
#: Inputs that the sensitivity of nodes is measured on; their order settles with few.
SAMPLES_MAX: Final = 8


def try_candidates(job: Job, profile: Profile, file_format: Format) -> list[Attempt]:
    """Try the recipes of a format until one passes.

    Returns:
        All attempts. Only the last one can have passed.

    Raises:
        UsageError: the model can't be converted to the format, or the target has no such recipe.
    """
    request = job.request
    order = recipes.plan(
        profile,
        file_format,
        job.source.kind,
        quantize=request.quantize,
        only=request.recipe,
        prefer=request.prefer,
    )
    original = _export(job, file_format)
    try:
        agree(job, original, profile)
    except GateFailed as error:
        return [Failed(file_format=file_format, recipe=FLOAT, error=error)]
    attempts: list[Attempt] = []
    slow: dict[Recipe, RecipeName] = {}
    for recipe in order:
        graph = recipes.TABLE[recipe].graph
        if graph in slow:
            attempts.append(_too_slow(file_format, recipe, slow[graph]))
            continue
        attempts.append(attempt := _try(job, original, recipe, profile))
        if isinstance(attempt, Passed):
            break
        if attempt.times is not None and is_slow(recipe, job.source.kind, attempt.times):
            slow[graph] = recipe
    return attempts


def _too_slow(file_format: Format, recipe: RecipeName, other: RecipeName) -> Failed:
    """Leave out a recipe that computes as a slow one does: noise would choose among equals."""
    message = f"computes as {other}, which is slower than fp32 on the machine that exported it"
    error = GateFailed("gate-failed", message, "take another target or --format, or ship fp32 with --quantize none")
    return Failed(file_format=file_format, recipe=recipe, error=error)


def _try(job: Job, original: Built, recipe: RecipeName, profile: Profile) -> Attempt:
    candidate, findings, times = None, None, None
    try:
        candidate = _quantize(job, original, recipe, profile)
        job.limits.check_fit(candidate)
        findings = _check(job, candidate)
        job.limits.check_quality(findings)
        times = _time(job, candidate, recipe)
        job.limits.check_speed(recipe, job.source.kind, times)
        job.limits.check_gain(candidate, times)
        on_target = target_cpu.verify(job, candidate, findings)
    except EdgemlError as error:
        if error.code not in _FAILURES or workspace.ran_full(error):
            raise
        return Failed(
            file_format=original.file_format,
            recipe=recipe,
            error=error,
            candidate=candidate,
            findings=findings,
            times=times,
        )
    return Passed(
        file_format=original.file_format,
        recipe=recipe,
        candidate=candidate,
        findings=findings,
        times=times,
        on_target=on_target,
    )


def _export(job: Job, file_format: Format) -> Built:
    def write() -> Built:
        job.progress.stage(f"export {file_format}")
        return fp32.write(job.source, file_format, job.new_folder())

    return job.once(("fp32", file_format), write)


def agree(job: Job, original: Built, profile: Profile) -> Oracle | None:
    """Compare the fp32 form with the original's own library; None where the original takes tensors as they are.

    Raises:
        GateFailed: `gate-failed`, when an answer is another: no quantization could make it right.
        UsageError: `model-unreadable` or `extra-missing`, when the library can't load the model.
    """
    source = job.source
    if source.folder is None and source.judge is None:
        return None
    items = job.checks.raw_items

    def ask() -> Reply:
        job.progress.stage("ask the original's library")
        if source.folder is None:
            return source.judge.reply(items) if source.judge else Reply()
        return library.of_environment().ask(source.folder, source.task, items)

    def compare_all() -> Oracle:
        reply = job.once("library answers", ask)
        with workspace.quiet(job.folder), opened(original, _build(job, original, profile).manifest()) as model:
            return against_oracle.check(model, items, reply.answers, reply.library)

    return job.once(("agreed", original.file_format), compare_all)


def _quantize(job: Job, original: Built, recipe: RecipeName, profile: Profile) -> Candidate:
    if recipes.TABLE[recipe].needs_calibration and not job.checks.calibration.rows:
        raise GateFailed("gate-failed", recipes.UNCALIBRATED, "give real rows with --calibrate")

    def quantize() -> Built:
        job.progress.stage(f"quantize {original.file_format} {recipe}")
        with workspace.quiet(job.folder):
            return apply.apply(recipe, original, job.new_folder(), _samples(job, original, recipe, profile))

    quantized = job.once(("quantized", original.file_format, recipe), quantize)
    model = memory.fit_context(quantized, original, profile, job.request.max_ram_bytes)
    return Candidate(model=model, fp32=original, profile=profile, manifest=_build(job, model, profile).manifest())


def _build(job: Job, model: Built, profile: Profile) -> pack.Build:
    return pack.Build(model=model, source=job.source, profile=profile, release=job.release)


def _samples(job: Job, original: Built, recipe: RecipeName, profile: Profile) -> list[dict[str, Array]]:
    """Prepare real inputs: all calibration rows for static int8, some inputs for the sensitivity of nodes."""
    if recipes.TABLE[recipe].needs_calibration:
        items = job.checks.calibration.items
    elif recipes.TABLE[recipe].mixed:
        items = list(job.checks.inputs.items[:SAMPLES_MAX])
    else:
        return []
    prepare = preparer(original.folder, _build(job, original, profile).manifest())
    return [prepare([item]).tensors for item in items]


def _check(job: Job, candidate: Candidate) -> Findings:
    job.progress.stage(f"check {candidate.manifest.stem} {candidate.model.recipe}")
    with workspace.quiet(job.folder):
        return job.checks.run(candidate)


def _time(job: Job, candidate: Candidate, recipe: RecipeName) -> latency.Times:
    """Time the candidate against fp32; one that would fail for its times is timed once more."""
    threads = _threads(candidate)

    def measure() -> latency.Times:
        job.progress.stage(f"time {candidate.manifest.stem} {candidate.model.recipe}")
        typical = job.checks.typical_input(candidate)
        int8 = latency.timed(candidate.model.path, candidate.manifest, typical)
        reference: TimedModel = msgspec.structs.replace(int8, path=str(candidate.fp32.path))
        request = latency.Job(
            int8=int8,
            fp32=reference,
            threads=threads,
            budget_s=job.request.budget.paired_s,
            weight_bytes=weight_bytes(candidate.model, candidate.fp32),
        )
        return latency.measure(request)

    def measure_twice_if_it_fails() -> latency.Times:
        times = measure()
        fails = is_slow(recipe, job.source.kind, times) or is_useless(candidate, times)
        return measure() if fails else times

    return job.once(("times", candidate.key, threads), measure_twice_if_it_fails)


def compare(job: Job, passed: Sequence[Passed]) -> Comparison:
    """Compare candidates of one target on this machine, over the expected lengths.

    Raises:
        DeviceError: `runtime-failed`.
    """

    def measure() -> Comparison:
        names = " and ".join(it.file_format for it in passed)
        job.progress.stage(f"time {names} in turns")
        mix = length_mix.samples(job.checks, [it.candidate for it in passed])
        contestants = [_contestant(it, [sample.tensors[at] for sample in mix]) for at, it in enumerate(passed)]
        with turns.started(contestants, [sample.weight for sample in mix]) as running:

            def turn() -> dict[Format, float]:
                return {it.file_format: ms for it, ms in zip(passed, running.take(), strict=True)}

            return comparison.compare(_entrants(passed), turn, budget_s=job.request.budget.turns_s)

    return job.once(("compared", *(it.candidate.key for it in passed)), measure)


def _contestant(passed: Passed, inputs: Sequence[Mapping[str, Array]]) -> turns.Contestant:
    return turns.Contestant(
        path=str(passed.candidate.model.path),
        manifest=passed.candidate.manifest,
        threads=_threads(passed.candidate),
        inputs=tuple({name: to_data(array) for name, array in tensors.items()} for tensors in inputs),
    )


def _entrants(passed: Sequence[Passed]) -> list[Entrant]:
    """The candidates with their losses: of accuracy where rows have labels, else of cosine to the original."""
    order = list(passed[0].candidate.profile.engines)
    is_labelled = all(it.findings.card.accuracy for it in passed)
    return [
        Entrant(
            file_format=it.file_format,
            loss=_loss(it, is_labelled=is_labelled),
            rank=order.index(ENGINES[it.file_format]),
        )
        for it in passed
    ]


def _loss(passed: Passed, *, is_labelled: bool) -> float:
    card = passed.findings.card
    if is_labelled and card.accuracy:
        return max(0.0, card.accuracy.drop)
    return 1 - card.parity.cosine if math.isfinite(card.parity.cosine) else 0.0


def _threads(candidate: Candidate) -> int:
    return min(candidate.manifest.runtime.threads, os.cpu_count() or 1)
