"""The rule that chooses between candidates, on made-up times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeml.pipeline import comparison
from edgeml.pipeline.comparison import Comparison, Entrant, compare, interval
from edgeml_core.manifest import Format

ORDER: tuple[Format, ...] = ("onnx", "tflite")


def entrants(onnx: float = 0.0, tflite: float = 0.0) -> list[Entrant]:
    """Both formats with their losses, in the profile's order."""
    return [
        Entrant(file_format=it, loss=loss, rank=at)
        for at, (it, loss) in enumerate(zip(ORDER, (onnx, tflite), strict=True))
    ]


def noisy(onnx_ms: float, tflite_ms: float, spread: float, seed: int = 0) -> Callable[[], Mapping[Format, float]]:
    """Turns whose times are disturbed independently by a factor of up to e to the power of `spread`."""
    drawn = np.random.default_rng(seed)

    def turn() -> Mapping[Format, float]:
        return {it: ms * math.exp(drawn.uniform(0, spread)) for it, ms in zip(ORDER, (onnx_ms, tflite_ms), strict=True)}

    return turn


def decide(entered: list[Entrant], turn: Callable[[], Mapping[Format, float]]) -> Comparison:
    return compare(entered, turn, budget_s=1.0, clock=lambda: 0.0)


@pytest.mark.parametrize(
    ("times_ms", "losses", "choice"),
    [
        ((2.0, 1.0), (0.0, 0.0), ("tflite", "cost")),
        ((1.0, 2.0), (0.0, 0.0), ("onnx", "cost")),
        ((1.0, 1.1), (0.0104, 0.0020), ("tflite", "cost")),
        ((1.0, 1.3), (0.0104, 0.0020), ("onnx", "cost")),
        ((1.0, 0.9), (0.0, 0.01), ("onnx", "cost")),
        ((1.0, 0.8), (0.0, 0.01), ("tflite", "cost")),
        ((0.02, 0.01), (0.0, 0.0), ("onnx", "trivial")),
        ((0.02, 0.01), (0.001, 0.0), ("tflite", "trivial")),
    ],
)
@pytest.mark.parametrize("spread", [0.001, 0.3])
def test_compare_clear_costs_ships_the_cheapest(
    times_ms: tuple[float, float], losses: tuple[float, float], choice: tuple[str, str], spread: float
):
    """A point of accuracy is worth a fifth of the time, on a quiet host and on a disturbed one."""
    found = decide(entrants(*losses), noisy(*times_ms, spread))
    assert (found.winner, found.outcome) == choice


def test_compare_equal_times_ships_the_first_in_the_profile():
    """Costs as good as equal are recognized as such, after more turns where the host is disturbed."""
    found = [decide(entrants(), noisy(1.0, 1.0, spread)) for spread in (0.001, 0.1)]
    assert [(it.winner, it.outcome) for it in found] == [("onnx", "near")] * 2
    assert found[0].turns < found[1].turns


def test_compare_disturbed_host_takes_more_turns():
    """A quiet host decides after the fewest turns; a disturbed one goes on until the interval excludes equality."""
    quiet = decide(entrants(), noisy(1.0, 0.8, 0.01))
    busy = decide(entrants(), noisy(1.0, 0.8, 0.8))
    assert quiet.turns == comparison.TURNS_MIN
    assert busy.turns > quiet.turns
    assert quiet.winner == busy.winner == "tflite"


@pytest.mark.parametrize(("losses", "winner"), [((0.0, 0.0), "onnx"), ((0.0003, 0.0001), "tflite")])
def test_compare_hopeless_host_reports_unclear_and_breaks_the_tie(losses: tuple[float, float], winner: str):
    """At the bound of turns the smaller loss ships, then the profile's order."""
    found = decide(entrants(*losses), noisy(1.0, 1.0, 3.0))
    assert (found.outcome, found.winner, found.turns) == ("unclear", winner, comparison.TURNS_MAX)


def test_compare_out_of_time_stops_before_the_fewest_turns():
    """A model that needs minutes for a turn doesn't hold the export up."""
    seconds = itertools.count(0, 30)
    found = compare(entrants(), noisy(1000.0, 500.0, 0.001), budget_s=40.0, clock=lambda: float(next(seconds)))
    assert (found.outcome, found.turns) == ("unclear", 2)


@settings(max_examples=60)
@given(
    times=st.tuples(st.floats(0.05, 50), st.floats(0.05, 50)),
    losses=st.tuples(st.floats(0, 0.02), st.floats(0, 0.02)),
    spread=st.floats(0.001, 1.0),
)
def test_compare_any_order_of_candidates_gives_the_same(
    times: tuple[float, float], losses: tuple[float, float], spread: float
):
    """The same turns lead to the same choice, however the candidates are listed."""
    listed = entrants(*losses)
    found = [decide(them, noisy(*times, spread)) for them in (listed, listed[::-1])]
    assert found[0] == found[1]


@settings(max_examples=60)
@given(
    onnx_ms=st.floats(0.5, 50),
    faster_by=st.floats(1.05, 4),
    losses=st.tuples(st.floats(0, 0.02), st.floats(0, 0.02)),
    spread=st.floats(0.0, 0.2),
)
def test_compare_candidate_that_is_faster_and_closer_always_ships(
    onnx_ms: float, faster_by: float, losses: tuple[float, float], spread: float
):
    """No order of the profile outweighs a candidate that is better in both respects."""
    found = decide(entrants(max(losses), min(losses)), noisy(onnx_ms, onnx_ms / faster_by, spread))
    assert found.winner == "tflite"


def test_interval_few_values_has_no_bounds():
    """Seven turns can't give a 99 % interval; eight give their whole range."""
    assert interval(range(7)) == (-math.inf, math.inf)
    assert interval(range(8)) == (0, 7)


def test_interval_covers_the_median_in_99_of_100():
    """Drawn from a skewed distribution whose median is known, the interval misses in no more than 1 % of the cases."""
    drawn = np.random.default_rng(1)
    missed = 0
    for _ in range(2000):
        low, high = interval([drawn.exponential() for _ in range(25)])
        missed += not low <= math.log(2) <= high
    assert missed <= 30
