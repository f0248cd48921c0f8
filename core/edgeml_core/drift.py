"""Drift: is what a model sees and answers still like what it was judged on? Counts only, never content.

A baseline holds how each quantity was spread over the rows that the bundle was judged on; the device counts into the
same bins, and the population stability index says how far the two are apart. What the quantities are, and who counts
when, isn't known here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

#: The customary bounds of the index: below the first nothing has changed, above the second it is another population.
#: Source: Siddiqi, Credit Risk Scorecards (2006), chapter 9.
MODERATE_PSI: Final = 0.1
MAJOR_PSI: Final = 0.25
#: Rows below which no baseline is made, and items below which nothing is said of what was observed.
ROWS_MIN: Final = 20
OBSERVED_MIN: Final = 50
#: Deciles are customary. With fewer rows there are fewer bins, so that a bin has this many rows.
BINS_MAX: Final = 10
ROWS_PER_BIN: Final = 10
#: The most frequent labels are counted one by one, if they have this many rows; the others together, since of labels
#: that came once or twice the next rows bring many more.
LABELS_MAX: Final = 20
ROWS_PER_LABEL: Final = 5
QUANTITIES_MAX: Final = 16
#: Each bin has so much of a row more than it has rows: an empty one is rare, not impossible (Jeffreys' prior).
_PRIOR_ROWS: Final = 0.5
#: What chance alone exceeds once in a thousand, in standard deviations.
_CHANCE_Z: Final = 3.0902
#: Of a quantity without a resolution of its own: this share of its range, or of its size where it has no range.
_RANGE_SHARE: Final = 0.01
_SIZE_SHARE: Final = 1e-6

Grade: TypeAlias = Literal["ok", "moderate", "major"]
_GRADES: Final[tuple[Grade, ...]] = ("ok", "moderate", "major")
Source: TypeAlias = Literal["evaluation", "calibration"]


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="histogram"):
    """Numbers by bin: bin i holds what is above edge i - 1 and not above edge i; the first and last have no end."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what doesn't fit together."""
        if not all(low < high for low, high in pairwise(self.edges)):
            raise ValueError("edges don't ascend")
        _require_counts(self.counts, len(self.edges) + 1)

    def bin(self, value: float | str) -> int:
        """Where a number is counted."""
        return bisect_left(self.edges, value)


class Categories(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="categories"):
    """Labels by name; the last count is of all others."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what doesn't fit together."""
        _require_counts(self.counts, len(self.labels) + 1)

    def bin(self, value: float | str) -> int:
        """Where a label is counted."""
        return self.labels.index(value) if value in self.labels else len(self.labels)


Distribution: TypeAlias = Histogram | Categories
#: What was seen of one quantity: numbers, or labels.
Values: TypeAlias = Sequence[float] | Sequence[str]


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How each quantity is spread over the rows of a data file, by the answers of the model that ships."""

    rows: int
    rows_from: Source
    quantities: dict[str, Distribution]

    def __post_init__(self) -> None:
        """Refuse more than a device would count."""
        if len(self.quantities) > QUANTITIES_MAX:
            raise ValueError(f"{len(self.quantities)} quantities; at most {QUANTITIES_MAX} are watched")

    @property
    def summary(self) -> str:
        """For people."""
        return f"{', '.join(self.quantities)} over {self.rows} {self.rows_from} rows"


class Shift(NamedTuple):
    """How far one quantity is from its baseline."""

    psi: float
    grade: Grade


class Drift(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a device says of one model: the worst grade, over how many items, and the index of what isn't "ok"."""

    grade: str
    observed: int
    psi: dict[str, float] = {}

    @property
    def summary(self) -> str:
        """For people."""
        worst = sorted(self.psi.items(), key=lambda it: (-it[1], it[0]))
        return ": ".join(filter(None, (self.grade, ", ".join(f"{name} {psi:.2f}" for name, psi in worst))))


def baseline(
    seen: Mapping[str, Values], *, rows: int, rows_from: Source, resolutions: Mapping[str, float]
) -> Baseline | None:
    """The baseline of what was seen; None where that is too little.

    Args:
        seen: each quantity's values.
        rows: of the data file.
        resolutions: by quantity, how near two values mean the same.
    """
    if rows < ROWS_MIN:
        return None
    enough = [(name, values) for name, values in seen.items() if len(values) >= ROWS_MIN][:QUANTITIES_MAX]
    quantities = {name: _distribution(values, resolutions.get(name)) for name, values in enough}
    return Baseline(rows=rows, rows_from=rows_from, quantities=quantities) if quantities else None


def psi(one: Sequence[int], other: Sequence[int]) -> float:
    """The population stability index of two counts over the same bins.

    Source: Siddiqi (2006), as above; it is the divergence of Jeffreys, An invariant form for the prior probability in
    estimation problems (1946).
    """
    pairs = zip(_shares(one), _shares(other), strict=True)
    return sum((there - here) * math.log(there / here) for here, there in pairs)


def chance(one: Sequence[int], other: Sequence[int]) -> float:
    """What the index of two samples of the same population exceeds once in a thousand.

    Source: Yurdakul and Naranjo, Statistical properties of the population stability index (2020): it is distributed as
    chi-squared over the bins but one, times the sum of both sizes' inverses. Quantile by Wilson and Hilferty (1931).
    """
    freedom = max(1, len(one) - 1)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + _CHANCE_Z * math.sqrt(spread)) ** 3
    return quantile * (1 / max(1, sum(one)) + 1 / max(1, sum(other)))


def judge(expected: Baseline, observed: Mapping[str, Sequence[int]]) -> dict[str, Shift]:
    """How far each quantity has moved; nothing of those that were observed too rarely.

    Args:
        observed: counts over the baseline's bins.
    """
    return {
        name: _shift(distribution.counts, observed[name])
        for name, distribution in expected.quantities.items()
        if sum(observed[name]) >= OBSERVED_MIN
    }


def drift(shifts: Mapping[str, Shift], observed: int) -> Drift | None:
    """What is said of a model's shifts; None where there is nothing to say."""
    if not shifts:
        return None
    moved = {name: round(it.psi, 2) for name, it in shifts.items() if it.grade != "ok"}
    return Drift(grade=max((it.grade for it in shifts.values()), key=_GRADES.index), observed=observed, psi=moved)


def _shift(expected: Sequence[int], observed: Sequence[int]) -> Shift:
    index = psi(expected, observed)
    noise = chance(expected, observed)
    grade: Grade = "ok"
    if index >= max(MODERATE_PSI, noise):
        grade = "major" if index >= MAJOR_PSI else "moderate"
    return Shift(index, grade)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) + _PRIOR_ROWS * len(counts)
    return [(count + _PRIOR_ROWS) / total for count in counts]


def _distribution(values: Values, resolution: float | None) -> Distribution:
    labels = [value for value in values if isinstance(value, str)]
    if labels:
        return _categories(labels)
    return _histogram(sorted(value for value in values if not isinstance(value, str)), resolution)


def _categories(values: Sequence[str]) -> Categories:
    counted = Counter(values)
    frequent = [label for label, count in counted.items() if count >= ROWS_PER_LABEL]
    labels = sorted(frequent, key=lambda label: (-counted[label], label))[:LABELS_MAX]
    counts = [counted[label] for label in labels]
    return Categories(labels=tuple(labels), counts=(*counts, len(values) - sum(counts)))


def _histogram(ordered: Sequence[float], resolution: float | None) -> Histogram:
    """Bins of about as many values each, and one beyond each end of the range.

    All edges are multiples of the resolution: no row's own value is among them.
    """
    low, high = ordered[0], ordered[-1]
    width = resolution or max(_RANGE_SHARE * (high - low), _SIZE_SHARE * max(abs(low), abs(high)), _SIZE_SHARE)
    bins = max(2, min(BINS_MAX, len(ordered) // ROWS_PER_BIN))
    quantiles = (ordered[part * len(ordered) // bins] for part in range(1, bins))
    inner = {edge for edge in (math.floor(it / width) * width for it in quantiles) if low <= edge < high}
    edges = (math.floor(low / width) * width - width, *sorted(inner), math.ceil(high / width) * width + width)
    counted = Counter(bisect_left(edges, value) for value in ordered)
    return Histogram(edges=edges, counts=tuple(counted[at] for at in range(len(edges) + 1)))


def _require_counts(counts: Sequence[int], wanted: int) -> None:
    if len(counts) != wanted or min(counts) < 0:
        raise ValueError(f"{wanted} counts are needed, none below 0")
