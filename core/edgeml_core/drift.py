"""Drift: the distance of a model's inputs and answers from its baseline. Counts only, never content.

A baseline has the distribution of each quantity over the rows on which the bundle was checked. The device counts into
the same bins, and the population stability index (PSI) measures the distance. Which quantities there are, and when they
are counted, is left to callers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

#: The customary bounds of the index: below the first nothing has changed, above the second the population is another.
#: Source: Siddiqi, Credit Risk Scorecards (2006), chapter 9.
MODERATE_PSI: Final = 0.1
MAJOR_PSI: Final = 0.25
#: Rows below which no baseline is made, and items below which nothing is reported of a quantity.
ROWS_MIN: Final = 20
OBSERVED_MIN: Final = 50
#: Deciles are customary. With fewer rows there are fewer bins, so that each has this number of rows.
BINS_MAX: Final = 10
ROWS_PER_BIN: Final = 10
#: Labels that are counted one by one, if each has this number of rows. The others are counted together: among labels
#: that came once or twice, new rows bring many more.
LABELS_MAX: Final = 20
ROWS_PER_LABEL: Final = 5
QUANTITIES_MAX: Final = 16
#: Rows added to each bin: an empty one is rare, not impossible (Jeffreys' prior).
_PRIOR_ROWS: Final = 0.5
#: Standard deviations that chance_bound alone exceeds once in a thousand.
_CHANCE_Z: Final = 3.0902
#: Resolution of a quantity without its own: this fraction of its range, or of its size if it has no range.
_RANGE_FRACTION: Final = 0.01
_SIZE_FRACTION: Final = 1e-6

Grade: TypeAlias = Literal["ok", "moderate", "major"]
_GRADES: Final[tuple[Grade, ...]] = ("ok", "moderate", "major")
Source: TypeAlias = Literal["evaluation", "calibration"]


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="histogram"):
    """Numbers by bin: bin i has values above edge i - 1 and not above edge i; the first and last are unbounded."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse edges and counts that don't fit together."""
        if not all(low < high for low, high in pairwise(self.edges)):
            raise ValueError("edges don't ascend")
        _check_counts(self.counts, len(self.edges) + 1)

    def bin(self, value: float | str) -> int:
        """Return the bin of a number."""
        return bisect_left(self.edges, value)


class Categories(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="categories"):
    """Labels by name; the last count is of all others."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse labels and counts that don't fit together."""
        _check_counts(self.counts, len(self.labels) + 1)

    def bin(self, value: float | str) -> int:
        """Return the bin of a label."""
        return self.labels.index(value) if value in self.labels else len(self.labels)


Distribution: TypeAlias = Histogram | Categories
#: The observed values of one quantity: numbers, or labels.
Values: TypeAlias = Sequence[float] | Sequence[str]


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The distribution of each quantity over the rows of a data file, by the answers of the model that ships."""

    rows: int
    rows_from: Source
    quantities: dict[str, Distribution]

    def __post_init__(self) -> None:
        """Refuse more quantities than a device would count."""
        if len(self.quantities) > QUANTITIES_MAX:
            raise ValueError(f"{len(self.quantities)} quantities; at most {QUANTITIES_MAX} are allowed")

    @property
    def summary(self) -> str:
        """Text for people."""
        return f"{', '.join(self.quantities)} over {self.rows} {self.rows_from} rows"


class Shift(NamedTuple):
    """The distance of one quantity from its baseline."""

    psi: float
    grade: Grade


class Drift(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model's reported drift: the worst grade, over how many items, and the PSI of quantities that aren't "ok"."""

    grade: str
    observed: int
    psi: dict[str, float] = {}

    @property
    def summary(self) -> str:
        """Text for people."""
        worst = sorted(self.psi.items(), key=lambda it: (-it[1], it[0]))
        return ": ".join(filter(None, (self.grade, ", ".join(f"{name} {psi:.2f}" for name, psi in worst))))


def baseline(
    seen: Mapping[str, Values], *, rows: int, rows_from: Source, resolutions: Mapping[str, float]
) -> Baseline | None:
    """Make the baseline of observed values; None if they are too few.

    Args:
        seen: each quantity's values.
        rows: number of rows in the data file.
        resolutions: by quantity, the distance within which two values mean the same.
    """
    if rows < ROWS_MIN:
        return None
    enough = [(name, values) for name, values in seen.items() if len(values) >= ROWS_MIN][:QUANTITIES_MAX]
    quantities = {name: _distribution(values, resolutions.get(name)) for name, values in enough}
    return Baseline(rows=rows, rows_from=rows_from, quantities=quantities) if quantities else None


def psi(one: Sequence[int], other: Sequence[int]) -> float:
    """Return the population stability index of two counts over the same bins.

    Source: Siddiqi (2006), as above; it is the divergence of Jeffreys, An invariant form for the prior probability in
    estimation problems (1946).
    """
    pairs = zip(_fractions(one), _fractions(other), strict=True)
    return sum((there - here) * math.log(there / here) for here, there in pairs)


def chance_bound(one: Sequence[int], other: Sequence[int]) -> float:
    """Return the index that two samples of the same population exceed once in a thousand.

    Source: Yurdakul and Naranjo, Statistical properties of the population stability index (2020): its distribution is
    chi-squared over the bins but one, times the sum of both sizes' inverses. Quantile by Wilson and Hilferty (1931).
    """
    freedom = max(1, len(one) - 1)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + _CHANCE_Z * math.sqrt(spread)) ** 3
    return quantile * (1 / max(1, sum(one)) + 1 / max(1, sum(other)))


def compare(expected: Baseline, observed: Mapping[str, Sequence[int]]) -> dict[str, Shift]:
    """Compare observed counts with the baseline; quantities with fewer than `OBSERVED_MIN` items are left out.

    Args:
        observed: counts over the baseline's bins.
    """
    return {
        name: _shift(distribution.counts, observed[name])
        for name, distribution in expected.quantities.items()
        if sum(observed[name]) >= OBSERVED_MIN
    }


def drift(shifts: Mapping[str, Shift], observed: int) -> Drift | None:
    """Summarize a model's shifts for a report; None if there are none."""
    if not shifts:
        return None
    moved = {name: round(it.psi, 2) for name, it in shifts.items() if it.grade != "ok"}
    return Drift(grade=max((it.grade for it in shifts.values()), key=_GRADES.index), observed=observed, psi=moved)


def _shift(expected: Sequence[int], observed: Sequence[int]) -> Shift:
    index = psi(expected, observed)
    noise = chance_bound(expected, observed)
    grade: Grade = "ok"
    if index >= max(MODERATE_PSI, noise):
        grade = "major" if index >= MAJOR_PSI else "moderate"
    return Shift(index, grade)


def _fractions(counts: Sequence[int]) -> list[float]:
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
    """Make bins of about equal counts, and one beyond each end of the range.

    All edges are multiples of the resolution: no row's own value is among them.
    """
    low, high = ordered[0], ordered[-1]
    width = resolution or max(_RANGE_FRACTION * (high - low), _SIZE_FRACTION * max(abs(low), abs(high)), _SIZE_FRACTION)
    bins = max(2, min(BINS_MAX, len(ordered) // ROWS_PER_BIN))
    quantiles = (ordered[part * len(ordered) // bins] for part in range(1, bins))
    inner = {edge for edge in (math.floor(it / width) * width for it in quantiles) if low <= edge < high}
    edges = (math.floor(low / width) * width - width, *sorted(inner), math.ceil(high / width) * width + width)
    counted = Counter(bisect_left(edges, value) for value in ordered)
    return Histogram(edges=edges, counts=tuple(counted[at] for at in range(len(edges) + 1)))


def _check_counts(counts: Sequence[int], wanted: int) -> None:
    if len(counts) != wanted or min(counts) < 0:
        raise ValueError(f"{wanted} counts are needed, none below 0")
