"""One recipe's attempt at the gate, passed or failed; and the errors when all attempts failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import UNSET

from edgeml.check.candidate import Candidate
from edgeml.check.checks import Findings
from edgeml.check.latency import Times
from edgeml.check.memory import estimate_bytes
from edgeml.pipeline.request import Exported
from edgeml.pipeline.target_cpu import TargetFindings
from edgeml_core.card import CandidateTimes, Tried
from edgeml_core.errors import EdgemlError, GateFailed
from edgeml_core.manifest import Format
from edgeml_core.profile import RecipeName


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A candidate that met every limit, with all findings."""

    file_format: Format
    recipe: RecipeName
    candidate: Candidate
    findings: Findings
    times: Times
    on_target: TargetFindings = field(default_factory=TargetFindings)

    @property
    def tried(self) -> Tried:
        """The card's entry."""
        return _tried(self, "")

    @property
    def timed(self) -> CandidateTimes:
        """The times beside fp32."""
        return _timed(self, self.times)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A recipe that an error stopped; the steps before it left their findings."""

    file_format: Format
    recipe: RecipeName
    error: EdgemlError
    candidate: Candidate | None = None
    findings: Findings | None = None
    times: Times | None = None

    @property
    def tried(self) -> Tried:
        """The card's entry."""
        return _tried(self, self.error.message)

    @property
    def timed(self) -> CandidateTimes | None:
        """The times beside fp32; None where the attempt failed earlier."""
        return _timed(self, self.times) if self.times else None


Attempt: TypeAlias = Passed | Failed


def _tried(attempt: Attempt, why: str) -> Tried:
    candidate, card = attempt.candidate, attempt.findings.card if attempt.findings else None
    accuracy = card.accuracy if card else None
    return Tried(
        format=attempt.file_format,
        recipe=attempt.recipe,
        why=why,
        size_bytes=candidate.model.size_bytes if candidate else 0,
        ram_bytes=estimate_bytes(candidate.model, candidate.fp32) if candidate else 0,
        cosine=card.parity.cosine if card and math.isfinite(card.parity.cosine) else None,
        drop=accuracy.drop if accuracy else None,
        ci95=accuracy.ci95 if accuracy else None,
    )


def _timed(attempt: Attempt, times: Times) -> CandidateTimes:
    fp32_ms, int8_ms = times.fp32.p50_ms, times.int8.p50_ms
    return CandidateTimes(
        format=attempt.file_format,
        recipe=attempt.recipe,
        fp32_ms=fp32_ms,
        int8_ms=int8_ms,
        prefill=times.prefill or UNSET,
    )


class NothingPassed(GateFailed):
    """No candidate passed for a bundle. The error holds all candidates, with their times where they were timed."""

    def __init__(self, target: str, attempts: Sequence[Attempt]) -> None:
        failures = [it for it in attempts if isinstance(it, Failed)]
        formats = ", ".join(dict.fromkeys(it.file_format for it in attempts))
        hints = dict.fromkeys(it.error.hint for it in failures)
        message = f"no recipe passed for {target} {formats}: {_reasons(failures)}"
        super().__init__("gate-failed", message, "; or ".join(hints))
        self.target = target
        self.candidates = tuple((it.tried, it.timed) for it in attempts)


class SomeFailed(GateFailed):
    """Some of several bundles failed. The error holds each failure, and the bundles that were written."""

    def __init__(self, failed: Sequence[NothingPassed], exported: Sequence[Exported]) -> None:
        hints = dict.fromkeys(error.hint for error in failed if error.hint)
        message = "; ".join(error.message for error in failed)
        super().__init__("gate-failed", f"{message}; {len(exported)} other bundle(s) passed", "; or ".join(hints))
        self.failed = tuple(failed)
        self.exported = tuple(exported)


def _reasons(failures: Sequence[Failed]) -> str:
    """Each reason once, behind the recipes that failed for it."""
    recipes: dict[str, list[str]] = {}
    for it in failures:
        recipes.setdefault(it.error.message, []).append(it.recipe)
    return "; ".join(f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in recipes.items())
