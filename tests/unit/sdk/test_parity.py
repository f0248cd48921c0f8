"""Parity: how far a model's answers are from the original's."""

from __future__ import annotations

import msgspec
import pytest

from edgeml.check import parity
from edgeml_core.errors import GateFailed
from edgeml_core.processing import Classes, Embedding
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
