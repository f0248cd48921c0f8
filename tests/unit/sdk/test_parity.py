"""Parity: how far a model's answers are from the original's."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgeml.check import parity
from edgeml_core.errors import GateFailed
from edgeml_core.processing import Classes, Embedding
from edgeml_runtime.verify.golden import cosine
from support import samples

EMBEDDING = msgspec.structs.replace(
    samples.a_manifest(), postprocess=Embedding(output="y", pooling="mean", normalize=True)
)
CLASSES = msgspec.structs.replace(
    samples.a_manifest(), postprocess=Classes(output="y", labels=("a", "b"), activation="softmax")
)


def test_compare_embeddings_takes_the_worst_cosine():
    """One vector of two is turned by a right angle: the cosine on the card is its."""
    original = [{"embedding": [1.0, 0.0]}, {"embedding": [0.0, 1.0]}]
    found = parity.compare([original[0], {"embedding": [1.0, 0.0]}], original, EMBEDDING, against="PyTorch")
    assert (found.rows, found.cosine, found.max_abs) == (2, 0.0, 1.0)


def test_compare_scores_goes_label_by_label():
    """Answers come sorted by score; equal scores in another order are still equal."""
    one = {"labels": [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.5}]}
    other = {"labels": [{"label": "b", "score": 0.5}, {"label": "a", "score": 0.5}]}
    found = parity.compare([one], [other], CLASSES, against="PyTorch")
    assert (found.cosine, found.max_abs) == (1.0, 0.0)


def test_check_parity_of_another_model_fails():
    """Below the bound the bundle would not be the model that was asked for; not a number is below any bound."""
    original = [{"embedding": [1.0, 0.0]}]
    for vector in ([0.6, 0.8], [float("nan"), 0.0]):
        found = parity.compare([{"embedding": vector}], original, EMBEDDING, against="PyTorch")
        with pytest.raises(GateFailed, match=r"below 0\.95"):
            parity.check_parity(found)
    parity.check_parity(parity.compare(original, original, EMBEDDING, against="PyTorch"))


TENSORS = samples.a_manifest()


def judge(found: dict[str, object], original: dict[str, object]) -> str:
    """The gate's message on one answer in tensors; empty when it passes."""
    answers = [{"outputs": found}], [{"outputs": original}]
    try:
        parity.check_parity(parity.compare(*answers, TENSORS, against="ONNX fp32"), parity.by_output(*answers, TENSORS))
    except GateFailed as error:
        return error.message
    return ""


def test_check_parity_judges_a_small_output_beside_a_large_one():
    """A recurrent state of hundreds of values passes, and drowns a probability that turned: the output is named."""
    state = [float(value) for value in range(300)]
    original = {"output": [[0.62]], "state": state}
    assert judge({"output": [[0.61]], "state": state}, original) == ""
    message = judge({"output": [[0.46]], "state": state}, original)
    assert message == "output 'output' keeps 0.0% of its decisions, below 95%"
    assert "output 'state'" in judge({"output": [[0.62]], "state": state[::-1]}, original)


@pytest.mark.parametrize(
    ("found", "original", "words"),
    [
        ([[0.1, 0.5, 0.4]], [[0.1, 0.4, 0.5]], "decisions"),
        ([[0.1, 0.45, 0.45]], [[0.1, 0.5, 0.4]], ""),
        ([20.9, 19.1, 20.9, 19.1], [19.1, 20.9, 19.1, 20.9], "is off by 1.80 of its spread"),
        ([20.1, 19.9, 20.1, 19.9], [20.0, 20.0, 20.0, 20.0], ""),
        ([float("nan")], [3.0], "has cosine nan"),
        ([0.0, 0.0], [0.0, 0.0], ""),
    ],
)
def test_check_parity_takes_each_output_at_its_own_scale(found: object, original: object, words: str):
    """The likeliest class; temperatures around 20, whose cosine is always high; constants; not a number."""
    message = judge({"y": found}, {"y": original})
    assert words in message
    assert bool(words) == bool(message)


def test_check_parity_judges_probabilities_that_an_output_packs_beside_boxes():
    """A detector's boxes span hundreds of pixels: the lost probabilities beside them cost no cosine."""
    chance = np.random.default_rng(0)
    boxes = chance.uniform(10, 300, (1, 4, 100))
    scores = np.where(chance.random((1, 3, 100)) > 0.9, 0.8, 0.01)
    original = np.concatenate([boxes, scores], axis=1)
    lost = np.concatenate([boxes, np.zeros_like(scores)], axis=1)
    assert cosine(lost.ravel(), original.ravel()) > 0.9999
    assert judge({"output": (original + 0.01).tolist()}, {"output": original.tolist()}) == ""
    message = judge({"output": lost.tolist()}, {"output": original.tolist()})
    assert message.startswith("output 'output, probabilities along axis 1' has cosine 0.0000")


def test_check_parity_counts_the_decisions_of_a_rare_side_by_themselves():
    """Of 1,000 frames 40 hear the word, and the candidate misses 10 of them by a little: 99 % of the decisions stay."""
    original = np.full(1000, 0.1)
    original[:40] = 0.6
    found = original.copy()
    found[:10] = 0.49
    message = judge({"output": found.tolist()}, {"output": original.tolist()})
    assert message == "output 'output' keeps 75.0% of its decisions, below 95%"
