"""Which of several candidates costs least, from paired turns on this machine: the rule alone, without measuring.

The cost of a candidate is its expected time, raised by `TIME_PER_POINT` for each point of accuracy that it loses. So a
candidate that loses a point more must take less than 1 / `TIME_PER_POINT` of the time to ship.

One turn times every candidate once. The ratio of two costs gets a 99 % interval over all turns, by order statistics:
single disturbed turns move it little. Turns continue until the interval excludes equal costs, or is so narrow that the
costs are as good as equal, or a bound is reached. In the last two cases the tie-break decides: the smaller loss, then
the order of the profile. A busy host needs more turns, and the outcome states when they don't decide.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edgeml_core.manifest import Format

#: Ratio of times; a point (0.01) of accuracy or cosine is worth this much. Policy: the default gate accepts one point
#: for int8's gain of 2 to 3 times, so a fifth is on the careful side.
TIME_PER_POINT: Final = 1.2
POINT: Final = 0.01
#: Turns; with fewer than eight a 99 % interval has no bounds.
TURNS_MIN: Final = 9
#: Turns; further ones narrow the interval too slowly.
TURNS_MAX: Final = 120
#: Natural logarithm; half the width of an interval around equal costs: they are known to be equal within 3 to 6 %.
NEAR: Final = 0.03
#: Milliseconds; below it a request's own overhead exceeds the model's time, so time has no say.
TRIVIAL_MS: Final = 0.2
#: Probability that the interval misses the median. Every turn checks the interval again, so it is small.
_MISS: Final = 0.01
#: Decimals of losses in the tie-break; more would differ between exports.
_LOSS_DECIMALS: Final = 4

#: `cost`: the interval excludes equal costs. `near`: the costs are as good as equal. `unclear`: a bound was reached.
#: `trivial`: all candidates take next to no time.
Outcome = Literal["cost", "near", "unclear", "trivial"]


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A candidate: its loss as a fraction of 1, and its place in the profile's order."""

    file_format: Format
    loss: float
    rank: int

    @property
    def penalty(self) -> float:
        """Natural logarithm of the factor that the loss adds to the time."""
        return self.loss / POINT * math.log(TIME_PER_POINT)

    @property
    def tie_break(self) -> tuple[float, int]:
        """The smaller one ships where costs decide nothing."""
        return round(self.loss, _LOSS_DECIMALS), self.rank


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The expected time of one candidate over that of the one that ships, with its 99 % interval."""

    file_format: Format
    expected_ms: float
    time_ratio: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The candidate that ships, by which outcome, and how the times of all compare."""

    winner: Format
    outcome: Outcome
    turns: int
    ratios: tuple[Ratio, ...]

    def is_faster(self, file_format: Format) -> bool:
        """Whether a candidate takes less time than the one that ships, by the whole interval."""
        return next(it.interval[1] for it in self.ratios if it.file_format == file_format) < 1


def compare(
    entrants: Sequence[Entrant],
    turn: Callable[[], Mapping[Format, float]],
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Take turns until the cheapest candidate is known, or can't be known.

    Args:
        entrants: in any order; the result is the same.
        turn: times each candidate once; gives expected times in milliseconds.
        budget_s: seconds after which no further turn begins.
        clock: seconds.
    """
    ordered = sorted(entrants, key=lambda it: it.rank)
    turns: list[Mapping[Format, float]] = []
    until = clock() + budget_s
    while True:
        turns.append(turn())
        is_last = len(turns) >= TURNS_MAX or clock() >= until
        if len(turns) < TURNS_MIN and not is_last:
            continue
        winner, outcome = _judge(ordered, turns)
        if outcome != "unclear" or is_last:
            return Comparison(
                winner=winner.file_format,
                outcome=outcome,
                turns=len(turns),
                ratios=tuple(_ratio(it, winner, turns) for it in ordered),
            )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 99 % interval of the median, by order statistics; without bounds for fewer than eight values.

    Source: Conover, Practical Nonparametric Statistics (1999), 3.2: confidence interval for a quantile.
    """
    count, tail, cut = len(values), 0.0, 0
    while (tail := tail + math.comb(count, cut) / 2**count) <= _MISS / 2:
        cut += 1
    ordered = sorted(values)
    return (ordered[cut - 1], ordered[-cut]) if cut else (-math.inf, math.inf)


def _judge(ordered: Sequence[Entrant], turns: Sequence[Mapping[Format, float]]) -> tuple[Entrant, Outcome]:
    if all(statistics.median(it[entrant.file_format] for it in turns) < TRIVIAL_MS for entrant in ordered):
        return min(ordered, key=lambda it: it.tie_break), "trivial"
    best = min(ordered, key=lambda it: (statistics.median(_costs(it, turns)), it.rank))
    rivals = [best]
    outcome: Outcome = "cost"
    for other in ordered:
        if other is best:
            continue
        low, high = interval(
            [theirs - own for own, theirs in zip(_costs(best, turns), _costs(other, turns), strict=True)]
        )
        if low > 0:
            continue
        rivals.append(other)
        if high - low > 2 * NEAR:
            outcome = "unclear"
        elif outcome == "cost":
            outcome = "near"
    return min(rivals, key=lambda it: it.tie_break), outcome


def _costs(entrant: Entrant, turns: Sequence[Mapping[Format, float]]) -> list[float]:
    return [math.log(it[entrant.file_format]) + entrant.penalty for it in turns]


def _ratio(entrant: Entrant, winner: Entrant, turns: Sequence[Mapping[Format, float]]) -> Ratio:
    logs = [math.log(it[entrant.file_format] / it[winner.file_format]) for it in turns]
    low, high = interval(logs)
    return Ratio(
        file_format=entrant.file_format,
        expected_ms=statistics.median(it[entrant.file_format] for it in turns),
        time_ratio=math.exp(statistics.median(logs)),
        interval=(math.exp(low), math.exp(high)),
    )
