"""The agreement of two versions, for each kind of answer; boxes are in test_detection."""

import numpy as np
import pytest

from edgeml_core.processing import Classes, Embedding, Generation, Span, TensorOutput, TokenClasses
from edgeml_runtime.verify.agreement import agree, outputs_agree

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
    ],
)
def test_agree_when_a_caller_would_act_in_the_same_way(spec, one, other, same):
    """Labels, spans and directions decide; scores differ between any two trainings. The order plays no part."""
    assert agree([one], [other], spec) is same
    assert agree([other], [one], spec) is same


def test_agree_needs_every_item_of_a_request():
    """One item of another label is another answer, and so is another number of items."""
    first, second = labels(("a", 1.0)), labels(("b", 1.0))
    assert agree([first, second], [first, second], CLASSES)
    assert not agree([first, second], [first, first], CLASSES)
    assert not agree([first], [first, second], CLASSES)


def test_outputs_agree_compares_names_shapes_and_directions():
    """Integers, too; two zero vectors agree, a zero vector with another does not."""
    one = {"y": np.array([[3, 4]]), "z": np.zeros(2)}
    assert outputs_agree(one, {"z": np.zeros(2), "y": np.array([[6.0, 8.0]])})
    assert not outputs_agree(one, {"y": one["y"]})
    assert not outputs_agree(one, {"y": one["y"].ravel(), "z": one["z"]})
    assert not outputs_agree(one, {"y": one["y"], "z": np.ones(2)})
