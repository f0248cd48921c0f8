"""One recipe's attempt at the gate: what came of it, as far as it got; and the errors when all attempts failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeml.check.candidate import Candidate
from edgeml.check.checks import Findings
from edgeml.check.latency import Times
from edgeml.check.memory import estimate_bytes
from edgeml.pipeline.request import Exported
from edgeml_core.card import CandidateTimes, TargetVerification, Tried
from edgeml_core.errors import EdgemlError, GateFailed
from edgeml_core.manifest import Format
from edgeml_core.profile import RecipeName


@dataclass(kw_only=True)
class Attempt:
    """Filled in step by step; `error` is what stopped it."""

    file_format: Format
    recipe: RecipeName
    candidate: Candidate | None = None
    findings: Findings | None = None
    times: Times | None = None
    proved: tuple[TargetVerification, ...] = ()
    error: EdgemlError | None = None

    @property
    def tried(self) -> Tried:
        """What the card keeps of it."""
        made, found = self.candidate, self.findings
        measured = found.card.accuracy if found else None
        return Tried(
            format=self.file_format,
            recipe=self.recipe,
            why=self.error.message if self.error else "",
            size_bytes=made.model.size_bytes if made else 0,
            ram_bytes=estimate_bytes(made.model, made.fp32) if made else 0,
            cosine=found.card.parity.cosine if found and math.isfinite(found.card.parity.cosine) else None,
            drop=measured.drop if measured else None,
            ci95=measured.ci95 if measured else None,
        )

    @property
    def timed(self) -> CandidateTimes | None:
        """What was measured of its speed."""
        if self.times is None:
            return None
        fp32_ms, int8_ms = self.times.fp32.p50_ms, self.times.int8.p50_ms
        return CandidateTimes(format=self.file_format, recipe=self.recipe, fp32_ms=fp32_ms, int8_ms=int8_ms)


class NothingPassed(GateFailed):
    """No candidate passed for a bundle: brings them all, with their times where they got so far."""

    def __init__(self, target: str, attempts: Sequence[Attempt]) -> None:
        formats = ", ".join(dict.fromkeys(it.file_format for it in attempts))
        hints = dict.fromkeys(it.error.hint for it in attempts if it.error)
        message = f"no recipe passed for {target} {formats}: {_failures(attempts)}"
        super().__init__("gate-failed", message, "; or ".join(hints))
        self.target = target
        self.candidates = tuple((it.tried, it.timed) for it in attempts)


class SomeFailed(GateFailed):
    """Of several bundles asked for not all passed: brings each failure, and the bundles that were written."""

    def __init__(self, failed: Sequence[NothingPassed], exported: Sequence[Exported]) -> None:
        hints = dict.fromkeys(error.hint for error in failed if error.hint)
        message = "; ".join(error.message for error in failed)
        super().__init__("gate-failed", f"{message}; {len(exported)} other bundle(s) passed", "; or ".join(hints))
        self.failed = tuple(failed)
        self.exported = tuple(exported)


def _failures(attempts: Sequence[Attempt]) -> str:
    """Each reason once, behind the recipes that failed for it."""
    recipes: dict[str, list[str]] = {}
    for it in attempts:
        if it.error:
            recipes.setdefault(it.error.message, []).append(it.recipe)
    return "; ".join(f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in recipes.items())
