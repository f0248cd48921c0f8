"""Drift: the index against figures worked out by hand, bins, grades, and what is refused."""

import math

import msgspec
import pytest

from edgeml_core import drift, manifest, messages
from edgeml_core.drift import Baseline, Categories, Drift, Histogram, Shift
from edgeml_core.errors import RejectedError
from edgeml_core.messages import DeviceState, ModelState
from support.samples import a_manifest

TENTHS = [number / 10 for number in range(100)]
BASELINE = Baseline(
    rows=400,
    rows_from="evaluation",
    quantities={
        "score": Histogram(edges=(0.5, 0.9), counts=(100, 200, 100)),
        "label": Categories(labels=("cow", "dog"), counts=(300, 100, 0)),
    },
)


def made(values, rows=100, **resolutions):
    """The baseline's only quantity, "q", of values."""
    found = drift.baseline({"q": values}, rows=rows, rows_from="evaluation", resolutions=resolutions)
    return found.quantities["q"] if found else None


def test_the_index_is_what_a_person_works_out():
    """With half a row more in each bin, 24 and 75 of 99 are shares of 0.245 and 0.755; turned round, the others."""
    by_hand = (0.755 - 0.245) * math.log(0.755 / 0.245) + (0.245 - 0.755) * math.log(0.245 / 0.755)
    assert drift.psi((24, 75), (75, 24)) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(1.148, abs=0.001)
    # 49 and 49 of 98 are halves; 97 and 1 are 97.5 and 1.5 of 99.
    assert drift.psi((49, 49), (97, 1)) == pytest.approx(
        (97.5 / 99 - 0.5) * math.log(97.5 / 49.5) + (1.5 / 99 - 0.5) * math.log(1.5 / 49.5)
    )


@pytest.mark.parametrize(("bins", "quantile"), [(3, 13.816), (10, 27.877), (12, 31.264)])
def test_chance_is_chi_squared(bins, quantile):
    """The 99.9 % quantiles in any table of the distribution, over the sizes of both samples."""
    one, other = [100] * bins, [25] * bins
    expected = quantile * (1 / sum(one) + 1 / sum(other))
    assert drift.chance_bound(one, other) == pytest.approx(expected, rel=0.03)


def test_numbers_fall_into_deciles_and_beyond_both_ends():
    """Ten values in each of ten bins; what is lower or higher than all has bins of its own."""
    found = made(TENTHS)
    assert found.counts[0] == found.counts[-1] == 0
    assert len(found.counts) == drift.BINS_MAX + 2
    assert all(9 <= count <= 11 for count in found.counts[1:-1])
    assert (found.bin(-5.0), found.bin(0.0), found.bin(9.9), found.bin(50.0)) == (0, 1, 10, 11)


def test_few_rows_have_few_bins():
    """Of twenty rows a decile would say nothing."""
    assert len(made(TENTHS[:20], rows=20).counts) == 2 + 2


def test_no_bin_is_narrower_than_the_resolution():
    """Scores that differ in the fourth digit are the same score, on this CPU and on another."""
    found = made([0.9990 + number / 1e6 for number in range(100)], q=0.02)
    assert found.counts == (0, 100, 0)
    assert found.bin(0.985) == found.bin(1.0) == 1
    assert (found.bin(0.9), made([5.0] * 100).counts) == (0, (0, 100, 0))


def test_rare_labels_are_counted_together():
    """The frequent ones first, up to the bound; all others are counted together."""
    found = made(["cow"] * 50 + ["dog"] * 45 + ["cat"] * 4 + ["owl"])
    assert found == Categories(labels=("cow", "dog"), counts=(50, 45, 5))
    assert (found.bin("dog"), found.bin("owl"), found.bin("unheard of")) == (1, 2, 2)
    many = made([f"label {number}" for number in range(30) for _ in range(10)])
    assert (len(many.labels), many.counts[-1]) == (drift.LABELS_MAX, 10 * (30 - drift.LABELS_MAX))


def test_too_few_rows_make_no_baseline():
    """What nobody could judge by isn't on the card."""
    assert made(TENTHS[:19], rows=19) is None
    assert made(TENTHS[:19], rows=100) is None
    assert drift.baseline({}, rows=100, rows_from="evaluation", resolutions={}) is None


def test_grades_follow_the_customary_bounds():
    """The same shares are fine; a fifth more in one bin is worth a look; turned over is another population."""
    same = drift.compare(BASELINE, {"score": (250, 500, 250), "label": (750, 250, 0)})
    assert {name: it.grade for name, it in same.items()} == {"score": "ok", "label": "ok"}
    moved = drift.compare(BASELINE, {"score": (400, 450, 150), "label": (250, 750, 0)})
    assert {name: it.grade for name, it in moved.items()} == {"score": "moderate", "label": "major"}


def test_what_chance_could_do_is_no_drift():
    """Of few items the index is above the bound now and then; it has to be above what chance gives, too."""
    few = drift.compare(BASELINE, {"score": (22, 22, 7), "label": (0, 0, 0)})
    assert few["score"].psi > drift.MODERATE_PSI
    assert few["score"].grade == "ok"


def test_nothing_is_said_of_too_few_items():
    """Below the least number there is no index, and without one no drift."""
    shifts = drift.compare(BASELINE, {"score": (0, 0, drift.OBSERVED_MIN - 1), "label": (0, 0, 0)})
    assert shifts == {}
    assert drift.drift(shifts, drift.OBSERVED_MIN - 1) is None


def test_a_drift_says_its_worst():
    """The grade of the worst quantity; those that are fine aren't named."""
    shifts = {"score": Shift(0.181, "moderate"), "label": Shift(3.2, "major"), "tokens": Shift(0.02, "ok")}
    found = drift.drift(shifts, 700)
    assert found == Drift(grade="major", observed=700, psi={"score": 0.18, "label": 3.2})
    assert found.summary == "major: label 3.20, score 0.18"
    assert drift.drift({"tokens": Shift(0.02, "ok")}, 700).summary == "ok"


def test_a_card_without_a_baseline_is_as_it_was():
    """Agents that know none read it; with one, it survives its encoding."""
    assert b'baseline"' not in manifest.encode(a_manifest())
    with_one = a_manifest(card=msgspec.structs.replace(a_manifest().card, baseline=BASELINE))
    assert manifest.decode(manifest.encode(with_one)) == with_one
    assert with_one.card.baseline_summary == "score, label over 400 evaluation rows"
    assert a_manifest().card.baseline_summary.startswith("none")


@pytest.mark.parametrize(
    ("quantities", "problem"),
    [
        ({"q": {"type": "histogram", "edges": [1, 1], "counts": [0, 0, 0]}}, "ascend"),
        ({"q": {"type": "histogram", "edges": [1, 2], "counts": [0, 0]}}, "3 counts"),
        ({"q": {"type": "categories", "labels": ["a"], "counts": [1, -1]}}, "below 0"),
        ({f"q{number}": {"type": "histogram", "edges": [], "counts": [1]} for number in range(17)}, "17 quantities"),
    ],
)
def test_a_malformed_baseline_is_refused(quantities, problem):
    """With the bundle that brings it."""
    card = msgspec.to_builtins(a_manifest())
    card["card"]["baseline"] = {"rows": 50, "rows_from": "evaluation", "quantities": quantities}
    with pytest.raises(RejectedError, match=problem):
        manifest.decode(msgspec.json.encode(card))


def test_a_state_carries_drift_where_there_is_some():
    """An older host reads the rest; a newer grade is read as it is."""
    model = ModelState(version="1", state="active")
    assert b"drift" not in messages.encode(DeviceState(online=True, session=1, models={"m": model}))
    drifted = msgspec.structs.replace(model, drift=Drift(grade="unheard of", observed=60, psi={"score": 0.5}))
    state = DeviceState(online=True, session=1, models={"m": drifted})
    assert messages.decode(messages.encode(state), DeviceState) == state
