"""The export of a model: load -> convert -> quantize -> check -> pack, for every target and format.

`export` has all steps; `edgeml.pipeline.candidates` has those of one candidate. Signing and publishing come after it
(`edgeml.repository`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import UNSET

from edgeml import targets, verify, workspace
from edgeml.check import data, expected_labels, feasible, inputs
from edgeml.check.checks import Checks
from edgeml.check.gate import Limits
from edgeml.exporters.load import load, release_name
from edgeml.exporters.source import FLOAT
from edgeml.memo import Memo
from edgeml.oracle import library
from edgeml.pipeline import candidates, format_choice, measurements, output_folder, pack
from edgeml.pipeline.attempt import Failed, NothingPassed, Passed, SomeFailed
from edgeml.pipeline.context import Job
from edgeml.pipeline.request import Exported, ExportRequest, NullProgress, Progress
from edgeml.quantize import recipes
from edgeml_core import card
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format
from edgeml_core.profile import Profile


def export(request: ExportRequest, progress: Progress | None = None) -> list[Exported]:
    """Export a model to one bundle for each target and requested format. A bundle that fails doesn't stop the others.

    Args:
        request: the model, the targets and the limits.
        progress: receives the steps and the bundles.

    Returns:
        The bundles in the order of targets, then formats. Each lies in `request.output` with its measurements.

    Raises:
        UsageError: the model, a data file, a target or an option is wrong; or the model can be converted to none of the
            formats. `bundle-exists`, when a bundle of another content lies there already.
        GateFailed: `gate-failed`, when no recipe passed for one of the bundles; nothing of that bundle is written.
            `NothingPassed` holds its candidates. Among several bundles `SomeFailed` holds each failure, and the bundles
            that were written. A plain one states before any work that the model can't fit a target.
        DeviceError: a runtime is missing or failed.
    """
    profiles = [targets.load(name) for name in dict.fromkeys(request.targets)]
    _check_possible(request, profiles)
    with workspace.folder(request.output) as folder:
        job = _load(request, progress or NullProgress(), folder)
        planned = list(format_choice.list_formats(request, profiles))
        pairs = [(profile.name, file_format) for profile, formats in planned for file_format in formats]
        output_folder.check_free(request, job.release.name, job.source.sha256, pairs)
        packed, failed = _bundles(job, planned)
        delivered = output_folder.deliver(request, packed)
        for exported in delivered:
            job.progress.done(exported)
    if failed:
        raise SomeFailed(failed, delivered) if len(failed) + len(delivered) > 1 else failed[0]
    return delivered


def _check_possible(request: ExportRequest, profiles: Sequence[Profile]) -> None:
    """Refuse impossible requests before any work."""
    if request.calibrate is None:
        recipes.check_calibration(request.recipe or request.quantize)
    quantized = "none" not in (request.quantize, request.recipe)
    if request.evaluate is not None and request.in_memory is None and request.task is None:
        expected_labels.check_folder(Path(request.model), request.evaluate)
    for profile in profiles:
        feasible.check_feasible(request.model, profile, quantized=quantized, max_ram_bytes=request.max_ram_bytes)


def _load(request: ExportRequest, progress: Progress, folder: Path) -> Job:
    progress.stage(f"load {request.model}")
    is_judged = os.path.isdir(request.model) or request.model.endswith((".keras", ".gguf"))  # noqa: PTH112 -- takes a name of any length
    if request.in_memory is None and is_judged:
        library.of_environment().start(Path(request.model))  # its own library is imported at the same time
    with workspace.quiet(folder):
        source = load(request, folder)
    calibration = data.read(request.calibrate, source.signature)
    evaluation = data.read(request.evaluate, source.signature, most=request.evaluate_rows)
    expected_labels.check((row.label for row in evaluation.rows), source.signature.postprocess)
    once = Memo()
    return Job(
        request=request,
        progress=progress,
        folder=folder,
        source=source,
        release=pack.Release(name=release_name(request, source), version=request.version),
        checks=Checks(
            source=source,
            inputs=inputs.gather(source, evaluation, calibration),
            evaluation=evaluation,
            calibration=calibration,
            max_drop=request.max_drop,
            once=once,
            advance=progress.rows,
        ),
        limits=Limits(
            max_drop=request.max_drop,
            max_latency_ms=request.max_latency_ms,
            max_size_bytes=request.max_size_bytes,
            max_ram_bytes=request.max_ram_bytes,
        ),
        once=once,
    )


def _bundles(
    job: Job, planned: Sequence[tuple[Profile, tuple[Format, ...]]]
) -> tuple[list[Exported], list[NothingPassed]]:
    """Pack the bundles that passed in the working folder; collect the errors of the others.

    Raises:
        UsageError: the first one, when the model can be converted to no requested format.
    """
    packed: list[Exported] = []
    failed: list[NothingPassed] = []
    unconverted: list[UsageError] = []
    for profile, formats in planned:
        try:
            packed.append(_bundle(job, profile, formats))
        except NothingPassed as error:
            failed.append(error)
        except UsageError as error:
            if error.code != "model-unsupported":
                raise
            unconverted.append(error)
            attempts = [Failed(file_format=it, recipe=FLOAT, error=error) for it in formats]
            failed.append(NothingPassed(profile.name, attempts))
    if len(unconverted) == len(planned):
        raise unconverted[0]
    return packed, failed


def _bundle(job: Job, profile: Profile, formats: Sequence[Format]) -> Exported:
    """Make one bundle of the format that wins, with the first of the target's recipes that passes."""
    chosen = format_choice.choose(
        formats,
        profile,
        partial(candidates.try_candidates, job, profile),
        compare=partial(candidates.compare, job),
    )
    if chosen.winner is None:
        raise NothingPassed(profile.name, chosen.attempts)
    return _pack(job, chosen.winner, chosen)


def _pack(job: Job, passed: Passed, chosen: format_choice.Chosen) -> Exported:
    candidate, findings = passed.candidate, passed.findings
    job.progress.stage(f"pack {candidate.manifest.stem}")
    build = pack.Build(model=candidate.model, source=job.source, profile=candidate.profile, release=job.release)
    oracle = candidates.agree(job, candidate.fp32, candidate.profile)
    manifest = build.manifest(findings, _card(findings.card, passed, chosen, oracle))
    path = pack.write(manifest, candidate.model, job.folder)
    with workspace.quiet(job.folder):
        verify.verify(path)
    return Exported(path=path, manifest=manifest, measurements=measurements.measure(job, passed, manifest, chosen))


def _card(found: card.Card, passed: Passed, chosen: format_choice.Chosen, oracle: card.Oracle | None) -> card.Card:
    """Complete the card with all candidates, the verification on the target's CPU and the original's own library."""
    failures = (it for it in chosen.attempts if isinstance(it, Failed))
    left = dict.fromkeys(f"{it.recipe} was left: {it.error.message}" for it in failures)
    return msgspec.structs.replace(
        found,
        tried=tuple(it.tried for it in chosen.attempts),
        verified=passed.on_target.verifications,
        warnings=(*chosen.notes, *left, *found.warnings),
        choice=chosen.reason or UNSET,
        oracle=oracle or UNSET,
        kernels=passed.on_target.kernels or UNSET,
    )
