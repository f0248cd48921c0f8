"""The way of a model on the host: load -> export -> quantize -> check -> pack, for every target and format.

`export` is the whole way; each step's work is in the package of its name. Signing and publishing come after it
(`edgeml.repository`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from edgeml import inference, pack, targets
from edgeml.check import data, inputs, latency
from edgeml.check.candidate import Candidate
from edgeml.check.checks import Checks, Findings
from edgeml.export import fp32, work
from edgeml.export.load import load, release_name
from edgeml.export.once import Once
from edgeml.export.request import Exported, ExportRequest, Progress, Silent
from edgeml.export.source import Built, Source
from edgeml.quantize import apply, recipes
from edgeml.quantize.recipes import Plan
from edgeml_core import card, chunks
from edgeml_core import manifest as manifests
from edgeml_core.card import Measurements, Verified
from edgeml_core.errors import EdgemlError, GateFailed
from edgeml_core.manifest import Format, Manifest
from edgeml_core.profile import Profile, Recipe
from edgeml_runtime.inputs import preparer
from edgeml_runtime.tensors import Array

#: What a failed candidate raises; the next one is tried then.
_FAILED: Final = frozenset({"gate-failed", "model-unsupported", "runtime-failed"})


def export(request: ExportRequest, progress: Progress | None = None) -> list[Exported]:
    """Export a model: one bundle for each target and format, or none at all.

    Args:
        request: what is asked.
        progress: who is told how it goes.

    Returns:
        The bundles in the order of targets, then formats; each lies in `request.output` with its measurements.

    Raises:
        UsageError: the model, a data file, a target or an option is wrong.
        GateFailed: `gate-failed`, when no recipe passed for one of the bundles: none is written then.
        DeviceError: a runtime is missing or failed.
    """
    profiles = [targets.load(name) for name in dict.fromkeys(request.targets)]
    with work.folder(request.output) as folder:
        job = _load(request, progress or Silent(), folder)
        packed = [_bundle(job, profile, file_format) for profile, file_format in _wanted(request, profiles)]
        return [_deliver(job, exported) for exported in packed]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One export under way."""

    request: ExportRequest
    progress: Progress
    folder: Path
    source: Source
    release: pack.Release
    checks: Checks
    once: Once
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_folder(self) -> Path:
        """An empty folder."""
        path = self.folder / f"{next(self.numbers)}"
        path.mkdir()
        return path


def _load(request: ExportRequest, progress: Progress, folder: Path) -> _Job:
    progress.stage(f"load {request.model}")
    with work.quiet(folder):
        source = load(request, folder)
    calibration = data.read(request.calibrate, source.signature)
    evaluation = data.read(request.evaluate, source.signature)
    once = Once()
    return _Job(
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
        ),
        once=once,
    )


def _wanted(request: ExportRequest, profiles: list[Profile]) -> list[tuple[Profile, Format]]:
    return [
        (profile, file_format)
        for profile in profiles
        for file_format in dict.fromkeys(request.formats or (profile.default_format,))
    ]


def _bundle(job: _Job, profile: Profile, file_format: Format) -> Exported:
    """One bundle: the first recipe of the target's that passes all checks."""
    whole = _export(job, file_format)
    plan = _plan(job, profile, file_format)
    failures: list[str] = []
    for recipe in plan.recipes:
        try:
            candidate = _quantize(job, whole, recipe, profile)
            findings = _check(job, candidate, (*plan.notes, *failures))
        except EdgemlError as error:
            if error.code not in _FAILED:
                raise
            failures.append(f"{recipe} was tried and left: {error.message}")
            continue
        return _pack(job, candidate, findings)
    raise _nothing_passed(profile, file_format, (*plan.notes, *failures))


def _export(job: _Job, file_format: Format) -> Built:
    def make() -> Built:
        job.progress.stage(f"export {file_format}")
        return fp32.write(job.source, file_format, job.new_folder())

    return job.once(("fp32", file_format), make)


def _plan(job: _Job, profile: Profile, file_format: Format) -> Plan:
    calibrated = bool(job.checks.calibration.rows)
    return recipes.plan(profile, file_format, job.source.kind, quantize=job.request.quantize, calibrated=calibrated)


def _quantize(job: _Job, whole: Built, recipe: Recipe, profile: Profile) -> Candidate:
    def make() -> Built:
        job.progress.stage(f"quantize {whole.file_format} {recipe}")
        calibration = _calibration(job, whole, profile) if recipes.family(recipe) == "static" else []
        with work.quiet(job.folder):
            return apply.apply(recipe, whole, job.new_folder(), calibration)

    model = job.once(("quantized", whole.file_format, recipe), make)
    manifest = pack.draft(model, job.source, profile, job.release)
    return Candidate(model=model, fp32=whole, profile=profile, manifest=manifest)


def _calibration(job: _Job, whole: Built, profile: Profile) -> list[dict[str, Array]]:
    """The calibration rows as the model's inputs, made as the device makes them."""
    prepare = preparer(whole.folder, pack.draft(whole, job.source, profile, job.release))
    return [prepare([item]).tensors for item in job.checks.calibration.items]


def _check(job: _Job, candidate: Candidate, notes: Sequence[str]) -> Findings:
    job.progress.stage(f"check {candidate.manifest.stem} {candidate.model.recipe}")
    with work.quiet(job.folder):
        return job.checks.run(candidate, notes)


def _pack(job: _Job, candidate: Candidate, findings: Findings) -> Exported:
    job.progress.stage(f"pack {candidate.manifest.stem}")
    manifest = pack.complete(candidate.manifest, candidate.profile, findings)
    path, manifest = pack.write(manifest, candidate.model, findings.cases, job.folder)
    with work.quiet(job.folder):
        inference.verify(path)
    return Exported(path=path, manifest=manifest, measurements=_measured(job, candidate, manifest))


def _measured(job: _Job, candidate: Candidate, manifest: Manifest) -> Measurements:
    threads = min(manifest.runtime.threads, os.cpu_count() or 1)

    def make() -> latency.Times:
        job.progress.stage(f"time {manifest.stem}")
        given = job.checks.first_input(candidate)
        int8 = latency.timed(candidate.model.path, candidate.manifest, given)
        return latency.measure(
            latency.Job(int8=int8, fp32=latency.timed(candidate.fp32.path, candidate.manifest, given), threads=threads)
        )

    times = job.once(("times", candidate.key, threads), make)
    return Measurements(
        manifest_sha256=chunks.sha256(manifests.encode(manifest)),
        cpu=latency.cpu_name(),
        threads=threads,
        fp32=times.fp32,
        int8=times.int8,
        load_ms=times.load_ms,
        first_inference_ms=times.first_inference_ms,
        peak_rss_bytes=times.peak_rss_bytes,
        verified_on=(_here(), *_there(candidate.profile)),
    )


def _here() -> Verified:
    return Verified(cpu=latency.cpu_name(), how="measured", ok=True)


def _there(profile: Profile) -> tuple[Verified, ...]:
    """What is not known of the target's own CPU, where this isn't one."""
    if targets.suits_this_machine(profile):
        return ()
    note = f"not verified on {profile.name}"
    return (Verified(cpu=profile.cpu.core, how="not measured", ok=False, note=note),)


def _deliver(job: _Job, exported: Exported) -> Exported:
    """Move a bundle and its measurements out of the working folder."""
    path = job.request.output / exported.path.name
    beside = exported.path.with_name(f"{exported.manifest.stem}{card.MEASUREMENTS_SUFFIX}")
    beside.write_bytes(card.encode_measurements(exported.measurements))
    beside.replace(path.with_name(beside.name))
    exported.path.replace(path)
    delivered = replace(exported, path=path)
    job.progress.done(delivered)
    return delivered


def _nothing_passed(profile: Profile, file_format: Format, failures: Sequence[str]) -> GateFailed:
    message = f"no recipe passed for {profile.name} {file_format}: {'; '.join(failures)}"
    return GateFailed("gate-failed", message, "accept more with --max-drop, or ship fp32 with --quantize none")
