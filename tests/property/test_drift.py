"""What holds of the population stability index for all counts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeml_core import drift

PAIRS = st.integers(2, 12).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 10_000), min_size=bins, max_size=bins)] * 2)
)
STEPS = 5


@given(PAIRS)
def test_it_is_symmetric_and_zero_for_equals_only(pair):
    """It measures a distance: whichever is called the baseline."""
    one, other = pair
    assert drift.psi(one, other) == pytest.approx(drift.psi(other, one))
    assert drift.psi(one, one) == 0
    assert drift.psi(one, other) >= 0


@given(PAIRS)
def test_the_more_of_another_population_the_higher(pair):
    """Mixed in step by step, in equal numbers."""
    one, other = ([count * total for count in counts] for counts, total in zip(pair, map(sum, pair[::-1]), strict=True))
    mixed = (
        [(STEPS - step) * here + step * there for here, there in zip(one, other, strict=True)]
        for step in range(STEPS + 1)
    )
    found = [drift.psi([STEPS * count for count in one], counts) for counts in mixed]
    assert all(low <= high + 1e-9 for low, high in pairwise(found))


@given(st.lists(st.floats(-1e9, 1e9), min_size=drift.ROWS_MIN, max_size=200), st.sampled_from([None, 0.02, 1.0]))
def test_every_value_has_its_bin(values, resolution):
    """A baseline counts all it was made of, none beyond its ends."""
    given_ = {"q": resolution} if resolution else {}
    made = drift.baseline({"q": values}, rows=len(values), rows_from="evaluation", resolutions=given_)
    histogram = made.quantities["q"]
    counts = [0] * len(histogram.counts)
    for value in values:
        counts[histogram.bin(value)] += 1
    assert tuple(counts) == histogram.counts
    assert counts[0] == counts[-1] == 0
    assert len(counts) <= drift.BINS_MAX + 2
