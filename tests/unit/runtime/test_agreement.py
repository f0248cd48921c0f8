"""The agreement of two versions, for each kind of answer; boxes are in test_detection."""

import numpy as np
import pytest

from edgeml_core.processing import Classes, Embedding, Generation, Span, TensorOutput, TokenClasses
from edgeml_runtime.verify.agreement import Scales, agree, outputs_agree

CLASSES = Classes(output="y", labels=("a", "b"), activation="softmax")
TOKENS = TokenClasses(output="y", labels=("O", "PLACE"))
SPAN = Span(start="s", end="e", max_tokens=3)
EMBEDDING = Embedding(output="y", pooling="mean", normalize=True)
GENERATION = Generation(output="y", stop_ids=(), past=(), present=())


def labels(*scored):
    return {"labels": [{"label": label, "score": score} for label, score in scored]}


def tokens(*names):
    return {"tokens": [{"start": at, "end": at + 1, "label": label} for at, label in enumerate(names)]}


@pytest.mark.parametrize(
    ("spec", "one", "other", "same"),
    [
        (CLASSES, labels(("a", 0.9), ("b", 0.1)), labels(("a", 0.6), ("b", 0.4)), True),
        (CLASSES, labels(("a", 0.6), ("b", 0.4)), labels(("b", 0.6), ("a", 0.4)), False),
        (TOKENS, tokens(*"O" * 19, "PLACE"), tokens(*"O" * 20), True),
        (TOKENS, tokens(*"O" * 9, "PLACE"), tokens(*"O" * 10), False),
        (TOKENS, tokens(*"O" * 20), tokens(*"O" * 22), False),
        (TOKENS, tokens(), tokens(), True),
        (SPAN, {"answer": "the pump", "score": 0.9}, {"answer": "the pump", "score": 0.4}, True),
        (SPAN, {"answer": "the pump", "score": 0.9}, {"answer": "pump", "score": 0.9}, False),
        (EMBEDDING, {"embedding": [1.0, 0.0]}, {"embedding": [2.0, 0.5]}, True),
        (EMBEDDING, {"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.5]}, False),
        (EMBEDDING, {"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.0, 0.0]}, False),
        (GENERATION, {"text": "yes"}, {"text": "no"}, True),
        (TensorOutput(), {"outputs": {"y": [1.0, 2.0]}}, {"outputs": {"y": [1.1, 2.0]}}, True),
        (TensorOutput(), {"outputs": {"y": [1.0, 2.0]}}, {"outputs": {"y": [-1.0, -2.0]}}, False),
        (TensorOutput(), {"outputs": {"y": [1.0]}}, {"outputs": {"z": [1.0]}}, False),
        (TensorOutput(), {"outputs": {"y": [[20.0]]}}, {"outputs": {"y": [[21.0]]}}, True),
        (TensorOutput(), {"outputs": {"y": [[20.0]]}}, {"outputs": {"y": [[95.0]]}}, False),
        (TensorOutput(), {"outputs": {"y": [3.0]}}, {"outputs": {"y": [float("nan")]}}, False),
        (TensorOutput(), {"outputs": {"label": [7, 8]}}, {"outputs": {"label": [7, 8]}}, True),
        (TensorOutput(), {"outputs": {"label": [7, 8]}}, {"outputs": {"label": [7, 9]}}, False),
    ],
)
def test_agree_when_a_caller_would_act_in_the_same_way(spec, one, other, same):
    """Labels, spans and directions decide; scores differ between any two trainings. The order plays no part."""
    assert agree([one], [other], spec, Scales()) is same
    assert agree([other], [one], spec, Scales()) is same


def test_agree_needs_every_item_of_a_request():
    """One item of another label is another answer, and so is another number of items."""
    first, second = labels(("a", 1.0)), labels(("b", 1.0))
    assert agree([first, second], [first, second], CLASSES, Scales())
    assert not agree([first, second], [first, first], CLASSES, Scales())
    assert not agree([first], [first, second], CLASSES, Scales())


def test_outputs_agree_compares_names_shapes_and_directions():
    """Two zero vectors agree, a zero vector with another does not."""
    one = {"y": np.array([[3.0, 4.0]]), "z": np.zeros(2)}
    assert outputs_agree(one, {"z": np.zeros(2), "y": np.array([[6.0, 8.0]])})
    assert not outputs_agree(one, {"y": one["y"]})
    assert not outputs_agree(one, {"y": one["y"].ravel(), "z": one["z"]})
    assert not outputs_agree(one, {"y": one["y"], "z": np.ones(2)})


def test_numbers_are_compared_on_the_scale_that_the_served_version_has_shown():
    """A small probability beside a smaller one is no other answer once larger ones were seen; 4x + 1 is one."""
    scales = Scales()
    assert outputs_agree({"y": np.array([0.9])}, {"y": np.array([0.88])}, scales)
    assert outputs_agree({"y": np.array([0.001])}, {"y": np.array([0.002])}, scales)
    assert not outputs_agree({"y": np.array([0.2])}, {"y": np.array([0.4])}, scales)
    rows = np.arange(1.0, 11.0)
    agreed = [outputs_agree({"y": 3 * row + np.ones(1)}, {"y": 4 * row + np.ones(1)}, Scales()) for row in rows]
    assert not any(agreed)


def test_scores_behind_a_label_may_grow_together():
    """Without scales only directions count, and integers are equal."""
    assert outputs_agree({"y": np.array([1.0, 2.0])}, {"y": np.array([2.0, 4.0])})
    assert not outputs_agree({"y": np.array([1, 2])}, {"y": np.array([2, 4])})
