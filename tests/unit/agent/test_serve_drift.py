"""Watching served models: windows of counts, a bound on how often, a new beginning with a new version, no content."""

import logging

import msgspec
import numpy as np
import pytest

from edgeml_agent.serve import drift as watching
from edgeml_agent.serve.drift import BURST_RUNS, RUNS_PER_S, WINDOW_ITEMS, DriftMonitor, Watches
from edgeml_agent.serve.metrics import render
from edgeml_core.drift import Baseline, Categories, Histogram
from edgeml_core.processing import Classes
from edgeml_runtime.drift_features import Run
from edgeml_runtime.inputs import Prepared
from edgeml_runtime.tasks import Tensors
from support.samples import a_manifest

BASELINE = Baseline(
    rows=400,
    rows_from="evaluation",
    quantities={
        "input x[0]": Histogram(edges=(-1.0, 0.0, 1.0), counts=(0, 200, 200, 0)),
        "label": Categories(labels=("cow", "dog"), counts=(200, 200, 0)),
    },
)
LABELLED = a_manifest(
    card=msgspec.structs.replace(a_manifest().card, baseline=BASELINE),
    postprocess=Classes(output="y", labels=("cow", "dog"), activation="softmax"),
)


class Time:
    """Seconds that pass when they are told to."""

    seconds = 0.0


@pytest.fixture
def clock():
    return Time()


@pytest.fixture
def watch(clock):
    return DriftMonitor(LABELLED, BASELINE, lambda: clock.seconds)


def run(value, label):
    """A run of one row: its input, and which label comes out of it."""
    inputs, outputs = {"x": np.float32([[value]])}, {"y": np.float32([[label == "cow", label == "dog"]])}
    return Run([Tensors(inputs)], Prepared(inputs, [None]), outputs)


LIKE = (run(-0.5, "cow"), run(0.5, "dog"))
UNLIKE = (run(7.0, "dog"), run(8.0, "dog"))


def see(watch, clock, runs, count):
    """Let `count` runs be observed, none of them too fast."""
    for number in range(count):
        clock.seconds += 1 / RUNS_PER_S
        watch(runs[number % len(runs)])


def grades(watch):
    return {name: it.grade for name, it in watch.shifts()[0].items()}


def test_what_is_like_the_baseline_is_fine(watch, clock):
    """Once enough of it was seen; before that nothing is said."""
    see(watch, clock, LIKE, 40)
    assert watch.shifts() == ({}, 40)
    see(watch, clock, LIKE, 160)
    assert grades(watch) == {"input x[0]": "ok", "label": "ok"}


def test_what_is_unlike_it_shows_by_quantity(watch, clock):
    """Inputs beyond all that was seen, and one label only."""
    see(watch, clock, UNLIKE, 200)
    assert grades(watch) == {"input x[0]": "major", "label": "major"}


def test_only_the_last_items_count(watch, clock):
    """Two windows slide: what has gone by is forgotten, so a barn with its light repaired is fine again."""
    see(watch, clock, UNLIKE, 3 * WINDOW_ITEMS)
    assert watch.shifts()[1] == WINDOW_ITEMS
    see(watch, clock, LIKE, 2 * WINDOW_ITEMS)
    assert grades(watch) == {"input x[0]": "ok", "label": "ok"}


def test_no_more_runs_are_observed_than_watching_may_take(watch, clock):
    """A burst is, then so many a second; a pause gives credit for no more than a burst."""
    for _ in range(5000):
        watch(LIKE[0])
    assert watch.shifts()[1] == BURST_RUNS
    for _ in range(1000):
        clock.seconds += 0.001
        watch(LIKE[0])
    assert watch.shifts()[1] == pytest.approx(BURST_RUNS + RUNS_PER_S, abs=1)


def test_a_model_that_is_loaded_again_is_watched_on_and_a_new_version_anew(clock):
    """And one without a baseline not at all."""
    watches = Watches()
    first = watches.over("m", LABELLED)
    see(first, clock, UNLIKE, 100)
    assert watches.over("m", LABELLED) is first
    assert watches.drifts()["m", "1.0"].grade == "major"
    watches.over("m", msgspec.structs.replace(LABELLED, version="2.0"))
    assert watches.drifts() == {}
    watches.over("m", a_manifest())(LIKE[0])
    assert list(next(iter(watches.metrics({"m"}))).samples) == []


def test_metrics_are_of_the_models_served(clock):
    """An index for each quantity, and how many items it is of."""
    watches = Watches()
    see(watches.over("m", LABELLED), clock, UNLIKE, 100)
    page = render(watches.metrics({"m"}))
    assert 'edgeml_drift_psi{model="m",quantity="label"} ' in page
    assert 'edgeml_drift_observed_items{model="m"} 100\n' in page
    assert "quantity" not in render(watches.metrics({"other"}))


def test_a_defect_in_watching_costs_no_answer_and_says_no_content(watch, monkeypatch, caplog):
    """It is told once, by the error's type alone."""

    def broken(*_):
        raise ValueError("the patient's name is Anna")

    monkeypatch.setattr(watching, "observations", broken)
    with caplog.at_level(logging.INFO):
        watch(LIKE[0])
        watch(LIKE[1])
    assert caplog.text.count("ValueError") == 1
    assert "Anna" not in caplog.text
    assert watch.shifts() == ({}, 0)
