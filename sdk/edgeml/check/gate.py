"""The gate: the limits that a candidate must meet.

Each rule compares findings with a limit, and raises with both figures. Messages hold no times: the card quotes them,
and it must be the same after every export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeml.check import accuracy, greedy_agreement, memory, parity
from edgeml.check.candidate import Candidate
from edgeml.check.checks import Findings
from edgeml.check.latency import Times
from edgeml.exporters.source import FLOAT
from edgeml.quantize import recipes
from edgeml_core.errors import GateFailed
from edgeml_core.profile import ModelKind, RecipeName

#: Ratio of times, int8 to fp32, that is accepted. A busy machine moves the ratio of two medians of one run by less, so
#: a second export decides as the first did. Dynamic int8 of a convolutional network has no such allowance.
SLOWER_MAX: Final = 1.25
#: Ratio of file sizes, int8 to fp32, below which a candidate counts as smaller.
SMALLER_MAX: Final = 0.95
#: Ratio of times, fp32 to int8, above which a candidate that isn't smaller counts as faster. A recipe that changes next
#: to nothing measures 1, give or take noise, so the bound lies apart from it.
FASTER_MIN: Final = 1.1
#: Milliseconds; where fp32 takes less, the times compare the runtime's own overhead.
TRIVIAL_MS: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a request: fractions of 1, milliseconds on this machine, bytes. None is no limit."""

    max_drop: float
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    max_ram_bytes: int | None = None

    def check_fit(self, candidate: Candidate) -> None:
        """Check size and memory, before the model is loaded.

        Raises:
            GateFailed: `gate-failed`.
        """
        size, most = candidate.model.size_bytes, self.max_size_bytes
        if most is not None and size > most:
            raise GateFailed(
                "gate-failed",
                f"the model's files are {size / 1e6:.3g} MB; --max-size allows {most / 1e6:.3g} MB",
                "take a smaller model, or allow more with --max-size",
            )
        needed = memory.estimate_bytes(candidate.model, candidate.fp32)
        memory.check_memory(needed, candidate.profile, self.max_ram_bytes)

    def check_quality(self, findings: Findings) -> None:
        """Check parity, the tokens that a language model writes, and accuracy.

        Raises:
            GateFailed: `gate-failed`.
        """
        parity.check_parity(findings.card.parity, findings.by_output)
        if findings.card.greedy:
            greedy_agreement.check(findings.card.greedy)
        if findings.card.accuracy:
            accuracy.check_drop(findings.card.accuracy, self.max_drop)

    def check_speed(self, name: RecipeName, kind: ModelKind, times: Times) -> None:
        """Check that int8 is no slower than fp32 on this machine, and within the request's limit.

        Raises:
            GateFailed: `gate-failed`.
        """
        if is_slow(name, kind, times):
            hint = "take another target or --format, or ship fp32 with --quantize none"
            raise GateFailed("gate-failed", "slower than fp32 on the machine that exported it", hint)
        if self.max_latency_ms is not None and times.int8.p50_ms > self.max_latency_ms:
            raise GateFailed(
                "gate-failed",
                f"slower than --max-latency {self.max_latency_ms:g} on the machine that exported it",
                "take a smaller model, or allow more with --max-latency",
            )

    def check_gain(self, candidate: Candidate, times: Times) -> None:
        """Check that a quantized candidate is smaller than fp32 or faster.

        Raises:
            GateFailed: `gate-failed`.
        """
        if not is_useless(candidate, times):
            return
        ratio = candidate.model.size_bytes / candidate.fp32.size_bytes
        message = f"neither smaller ({ratio:.2f} x) nor faster than fp32 on the machine that exported it"
        raise GateFailed("gate-failed", message, "ship fp32 with --quantize none")


def is_useless(candidate: Candidate, times: Times) -> bool:
    """Whether a quantized candidate is neither smaller than fp32 nor faster, by more than noise."""
    fp32, int8 = times.fp32.p50_ms, times.int8.p50_ms
    is_faster = fp32 >= TRIVIAL_MS and fp32 > int8 * FASTER_MIN
    is_smaller = candidate.model.size_bytes < candidate.fp32.size_bytes * SMALLER_MAX
    return candidate.model.recipe != FLOAT and not (is_faster or is_smaller)


def is_slow(name: RecipeName, kind: ModelKind, times: Times) -> bool:
    """Whether a recipe is slower than fp32 by more than noise."""
    fp32, int8 = times.fp32.p50_ms, times.int8.p50_ms
    if name == "none":
        return False
    if kind == "cnn" and recipes.TABLE[name].family == "dynamic":
        return int8 > fp32
    return fp32 >= TRIVIAL_MS and int8 > fp32 * SLOWER_MAX
