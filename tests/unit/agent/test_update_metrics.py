"""Metrics of updates: each model's state, and the bytes of its fetches."""

import pytest

from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.update.metrics import UpdateMetrics
from edgeml_core.lifecycle import State


@pytest.fixture
def store(tmp_path):
    """A store with two models."""
    store = Store(tmp_path)
    store.save(ModelRecord(name="mood", state=State.FETCHING))
    store.save(ModelRecord(name="topic", state=State.ACTIVE))
    yield store
    store.close()


def samples(metrics, name):
    """The samples of one metric, by their labels' values."""
    found = {metric.name: metric for metric in metrics.collect()}[name]
    return {tuple(labels.values()): value for _, labels, value in found.samples}


def test_each_model_is_in_one_state(store):
    """The gauge is 1 for it, 0 for all others."""
    states = samples(UpdateMetrics(store), "edgeml_update_state")
    assert len(states) == 2 * len(State)
    assert {key for key, value in states.items() if value} == {("mood", "fetching"), ("topic", "active")}


def test_bytes_of_fetches_add_up(store):
    """Each fetch counts from 0, so that a counter never falls; a model that fetched nothing has 0."""
    metrics = UpdateMetrics(store)
    count = metrics.start_fetch("mood")
    for so_far in (100, 100, 250):
        count(so_far)
    again = metrics.start_fetch("mood")
    again(300)
    assert samples(metrics, "edgeml_fetched_bytes_total") == {("mood",): 550, ("topic",): 0}


def test_a_later_fetch_with_more_bytes_is_counted_whole(store):
    """The count of the fetch before says nothing about it."""
    metrics = UpdateMetrics(store)
    metrics.start_fetch("mood")(10)
    metrics.start_fetch("mood")(1000)
    assert samples(metrics, "edgeml_fetched_bytes_total")["mood",] == 1010
