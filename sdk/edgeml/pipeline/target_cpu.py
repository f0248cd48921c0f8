"""What is known of a candidate on the target's own CPU: proved under emulation where that can be, else plainly nothing.

Running it there is `emulated.py`'s work; judging what came back is done here.
"""

from __future__ import annotations

from typing import Final

from edgeml import targets
from edgeml.check.candidate import Candidate
from edgeml.check.checks import Findings
from edgeml.pipeline import pack
from edgeml.pipeline.context import Job
from edgeml.verify.emulation import emulated
from edgeml_core.card import Accuracy, Proved
from edgeml_core.errors import DeviceError, GateFailed

#: Evaluation rows that are answered there too: enough to see a recipe that saturates (it loses points, not rows), few
#: enough for an emulator that is tens of times slower than the machine.
ROWS_MAX: Final = 64
#: Rows that may be answered worse there than here before it counts: one alone is more than 1 % of so few.
ROWS_LOST_MAX: Final = 1
_DIGITS: Final = 4
_HINT: Final = "leave out --recipe, so that the target's own are tried, or take another target"


def proved(job: Job, candidate: Candidate, findings: Findings) -> tuple[Proved, ...]:
    """The proof for the card; none where this machine's CPU is of the target's kind, and all was measured here.

    Raises:
        GateFailed: `gate-failed`, when golden outputs differ or accuracy drops on that CPU.
        DeviceError: `runtime-failed` or `probe-crashed` there.
    """
    profile = candidate.profile
    if targets.suits_this_machine(profile):
        return ()
    if why := emulated.unready(profile):
        note = f"not verified on {profile.name}: {why}"
        return (Proved(cpu=profile.cpu.core, how="not measured", note=note),)
    job.progress.stage(f"prove {candidate.manifest.stem} {candidate.model.recipe} on {profile.cpu.core}, emulated")
    manifest = pack.sealed(pack.complete(candidate.manifest, profile, findings), candidate.model, findings.cases)
    try:
        found = emulated.prove(candidate.model.folder, manifest, profile, job.checks.evaluation.items[:ROWS_MAX])
    except DeviceError as error:
        if error.code != "golden-mismatch":
            raise
        raise GateFailed("gate-failed", f"emulated, {error.message}", _HINT) from error
    measured = None
    if findings.card.accuracy:
        here, measured = job.checks.accuracies(candidate, found.answers)
        check_accuracy(findings.card.accuracy, here, measured, cpu=found.cpu, max_drop=job.limits.max_drop)
    return (
        Proved(
            cpu=found.cpu,
            how="emulated",
            min_cosine=round(found.min_cosine, 6),
            max_abs=float(f"{found.max_abs:.{_DIGITS}g}"),
            accuracy=measured,
        ),
    )


def check_accuracy(whole: Accuracy, here: Accuracy, there: Accuracy, *, cpu: str, max_drop: float) -> None:
    """Check that accuracy holds on the other CPU.

    What all rows lost here, and what the first rows lost there beyond what the same rows lost here: so few rows alone
    would say little. A row that is right or wrong counts for much among so few; a perplexity moves by less.

    Args:
        whole: on all rows, here.
        here: on the first rows, here.
        there: on the same rows, on the other CPU.

    Raises:
        GateFailed: `gate-failed`.
    """
    further = there.drop - here.drop
    counts = not there.is_fraction or round(further * there.rows) > ROWS_LOST_MAX
    if whole.drop + further > max_drop and counts:
        raise GateFailed(
            "gate-failed",
            f"on {cpu}, emulated, {there.metric} is worse by about {whole.drop + further:.2%} "
            f"({there.summary}; of the same rows on the exporting machine {here.summary}); {max_drop:.2%} is accepted",
            _HINT,
        )
