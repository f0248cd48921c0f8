"""The cost of a run: whether batches pay, on a model with a clock of its own."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgeml_runtime.bench import batching
from edgeml_runtime.bench.batching import BATCH_MAX, GAIN_MIN, MEASURED_RUN_MAX_S, measure_run_cost

ROW = {"x": np.ones((1, 3), np.float32)}


class Timed:
    """A model whose runs take `fixed_s` and `row_s` for each row, by the clock that it is."""

    def __init__(self, fixed_s, row_s, *, changes=0.0, takes_batches=True, stacks=False):
        self.fixed_s, self.row_s, self.changes = fixed_s, row_s, changes
        self.takes_batches, self.stacks = takes_batches, stacks
        self.now_s = 0.0
        self.batches = []

    def perf_counter(self):
        """The time by this model's clock."""
        return self.now_s

    def infer(self, inputs):
        """Twice the inputs; in a batch off by `changes`."""
        rows = len(inputs["x"])
        self.batches.append(rows)
        self.now_s += self.fixed_s + rows * self.row_s
        return {"y": 2 * inputs["x"] + (self.changes if rows > 1 else 0.0)}


def cost(monkeypatch, model, cases=(ROW,)):
    """Measure a model by its own clock."""
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=model.perf_counter))
    return measure_run_cost(model, cases)


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "batch_size"),
    [(0.010, 0.0001, BATCH_MAX), (0.0, 0.010, 1), (0.004, 0.004, BATCH_MAX), (0.003, 0.0075, 1)],
)
def test_measure_run_cost_batches_only_where_they_pay(monkeypatch, fixed_s, row_s, batch_size):
    """By the ratio of throughputs: 8 rows' single runs against the time of one batch of 8."""
    found = cost(monkeypatch, Timed(fixed_s, row_s))
    gain = BATCH_MAX * (fixed_s + row_s) / (fixed_s + BATCH_MAX * row_s)
    assert (gain >= GAIN_MIN) is (batch_size > 1)
    assert found.batch_size == batch_size
    assert found.run_s == pytest.approx(fixed_s + row_s)


def test_measure_run_cost_batch_that_changes_answers_is_not_used(monkeypatch):
    """A gain in speed doesn't outweigh another answer."""
    assert cost(monkeypatch, Timed(0.01, 0.0, changes=0.01)).batch_size == 1
    assert cost(monkeypatch, Timed(0.01, 0.0, changes=1e-6)).batch_size == BATCH_MAX


def test_measure_run_cost_slow_model_is_not_run_in_batches(monkeypatch):
    """Its first client waits for the measurement."""
    model = Timed(MEASURED_RUN_MAX_S * 1.01, 0.0)
    assert cost(monkeypatch, model).batch_size == 1
    assert set(model.batches) == {1}


def test_measure_run_cost_model_of_fixed_shape_is_not_run_in_batches(monkeypatch):
    """Neither one that takes no batch, nor golden inputs of several rows."""
    model = Timed(0.01, 0.0, takes_batches=False)
    assert cost(monkeypatch, model).batch_size == 1
    assert set(model.batches) == {1}
    assert cost(monkeypatch, Timed(0.01, 0.0, takes_batches=False, stacks=True)).batch_size == BATCH_MAX
    assert cost(monkeypatch, Timed(0.01, 0.0), [{"x": np.ones((2, 3), np.float32)}]).batch_size == 1


def test_measure_run_cost_joins_golden_cases_of_one_shape(monkeypatch):
    """Cases of another shape are left out; the batch is full all the same."""
    cases = [ROW, {"x": np.ones((1, 5), np.float32)}, {"x": np.zeros((1, 3), np.float32)}]
    model = Timed(0.01, 0.0)
    assert cost(monkeypatch, model, cases).batch_size == BATCH_MAX
    assert BATCH_MAX in model.batches
