"""The verification of a candidate on the target's own CPU: emulated where an emulator is ready, else plainly none.

`edgeml.verify.emulation` runs it there. This module decides what the results mean. Where this machine's CPU is of the
target's kind, the checks ran on it, and only the kernels of a language model are looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeml import targets
from edgeml.check.candidate import Candidate
from edgeml.check.checks import Findings
from edgeml.pipeline import kernels, pack
from edgeml.pipeline.context import Job
from edgeml.verify.emulation import emulated
from edgeml_core.card import Accuracy, Kernels, TargetVerification
from edgeml_core.errors import DeviceError, GateFailed
from edgeml_runtime import engines
from edgeml_runtime.verify.kernels import report

#: Evaluation rows that are answered there too. They are enough to see a recipe that saturates, and few enough for an
#: emulator that is tens of times slower than the machine.
ROWS_MAX: Final = 64
#: Rows that may be answered worse there than here before it counts: one alone is more than 1 % of 64.
ROWS_LOST_MAX: Final = 1
#: Digits of figures on the card; more would differ between runs.
_DIGITS: Final = 4
_COSINE_DECIMALS: Final = 6
_HINT: Final = "leave out --recipe, so that the target's own are tried, or take another target"


@dataclass(frozen=True, kw_only=True)
class TargetFindings:
    """The results on the target's CPU, for the card."""

    verifications: tuple[TargetVerification, ...] = ()
    kernels: Kernels | None = None


def verify(job: Job, candidate: Candidate, findings: Findings) -> TargetFindings:
    """Verify a candidate on its target's CPU.

    Returns:
        The card's entries. There is no verification where this machine's CPU is of the target's kind.

    Raises:
        GateFailed: `gate-failed`, when golden outputs differ or accuracy drops on that CPU.
        DeviceError: `runtime-failed` or `probe-crashed` there.
    """
    profile = candidate.profile
    if targets.suits_this_machine(profile):
        return TargetFindings(kernels=_kernels_here(candidate))
    if why := emulated.unready(profile):
        note = f"not verified on {profile.name}: {why}"
        return TargetFindings(verifications=(TargetVerification(cpu=profile.cpu.core, how="not measured", note=note),))
    return _verify_emulated(job, candidate, findings)


def _kernels_here(candidate: Candidate) -> Kernels | None:
    """Look up the kernels on this machine. The card names the kind of its CPU and no machine."""
    manifest, recipe = candidate.manifest, candidate.model.recipe
    gauge = kernels.gauge(manifest, recipe)
    found = report(candidate.model.path, manifest, gauge) if gauge else None
    version = engines.installed().get(manifest.runtime.engine, "")
    cpu = f"a CPU with {', '.join(candidate.profile.cpu.needs)}"
    return kernels.describe(found, manifest, recipe, cpu=cpu, how="measured", runtime=version)


def _verify_emulated(job: Job, candidate: Candidate, findings: Findings) -> TargetFindings:
    profile, recipe = candidate.profile, candidate.model.recipe
    job.progress.stage(f"verify {candidate.manifest.stem} {recipe} on {profile.cpu.core}, emulated")
    build = pack.Build(model=candidate.model, source=job.source, profile=profile, release=job.release)
    items = job.checks.evaluation.items[:ROWS_MAX]
    manifest = build.manifest(findings)
    try:
        found = emulated.verify(candidate.model.folder, manifest, profile, items, kernels.gauge(manifest, recipe))
    except DeviceError as error:
        if error.code != "golden-mismatch":
            raise
        raise GateFailed("gate-failed", f"emulated, {error.message}", _HINT) from error
    measured = None
    if findings.card.accuracy:
        here, measured = job.checks.accuracies(candidate, found.answers)
        check_accuracy(findings.card.accuracy, here, measured, cpu=found.cpu, max_drop=job.limits.max_drop)
    verification = TargetVerification(
        cpu=found.cpu,
        how="emulated",
        min_cosine=round(found.min_cosine, _COSINE_DECIMALS),
        max_abs=float(f"{found.max_abs:.{_DIGITS}g}"),
        accuracy=measured,
    )
    return TargetFindings(
        verifications=(verification,),
        kernels=kernels.describe(found.kernels, manifest, recipe, cpu=found.cpu, how="emulated", runtime=found.runtime),
    )


def check_accuracy(every_row: Accuracy, here: Accuracy, there: Accuracy, *, cpu: str, max_drop: float) -> None:
    """Check that accuracy holds on the other CPU.

    The loss on all rows here, plus what the first rows lose there beyond their loss here, must be within `max_drop`.
    A single row counts for much among so few, so one lost row is forgiven; a perplexity moves by less.

    Args:
        every_row: on all rows, here.
        here: on the first rows, here.
        there: on the same rows, on the other CPU.
        cpu: the other CPU's name.
        max_drop: a fraction of 1.

    Raises:
        GateFailed: `gate-failed`.
    """
    further = there.drop - here.drop
    counts = not there.is_fraction or round(further * there.rows) > ROWS_LOST_MAX
    if not every_row.drop + further <= max_drop and counts:  # NaN is within no limit
        raise GateFailed(
            "gate-failed",
            f"on {cpu}, emulated, {there.metric} is worse by about {every_row.drop + further:.2%} "
            f"({there.summary}; of the same rows on the exporting machine {here.summary}); {max_drop:.2%} is accepted",
            _HINT,
        )
