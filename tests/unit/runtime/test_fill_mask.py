"""A word for the mask of a text, from a tiny model whose answers a person can foretell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import pytest

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.processing import MaskFill
from edgeml_runtime.model import Model
from edgeml_runtime.postprocess.fill_mask import fills
from edgeml_runtime.tasks import Row, Text
from edgeml_runtime.verify.agreement import agree
from support import task_models

SPEC = MaskFill(output="logits", mask="[MASK]")


@pytest.fixture
def opened(unpack) -> Callable[..., Model]:
    """The model that knows new things, with another postprocessing."""

    def make(**changes: object) -> Model:
        bundle = unpack(partial(task_models.bundle, task="fill-mask"))
        post = msgspec.structs.replace(bundle.manifest.postprocess, **changes)
        return Model.open(bundle.folder, msgspec.structs.replace(bundle.manifest, postprocess=post))

    return make


def test_fills_are_tokens_by_probability_with_the_whole_text(opened):
    """As many as requested; without a number five. Their scores are parts of one over the vocabulary."""
    first, second, *others = opened().predict([Text("Check the new [MASK] .")])[0]["fills"]
    assert (first["token_str"], first["token"]) == ("filter", task_models.IDS["filter"])
    assert first["sequence"] == "check the new filter."  # the tokenizer's decoder joins it so
    assert second["token_str"] == "pump"
    rest = len(task_models.IDS) - 2
    assert first["score"] == pytest.approx(np.exp(9) / (np.exp(9) + np.exp(7) + rest))
    assert [len(others), others[0]["score"]] == [3, pytest.approx(1 / (np.exp(9) + np.exp(7) + rest))]
    (only,) = opened().predict([Text("new [MASK]", top_k=1)])[0]["fills"]
    assert only["sequence"] == "new filter"
    assert len(opened().predict([Text("new [MASK]", top_k=100)])[0]["fills"]) == len(task_models.IDS)


@pytest.mark.parametrize("text", ["the new pump", "[MASK] the new [MASK]", ""])
def test_text_without_one_mask_is_refused(opened, text):
    """By the number of its masks, with the mask to write."""
    with pytest.raises(UsageError, match=rf"{text.count('[MASK]')} masks; 1 is needed") as caught:
        opened().predict([Text(text)])
    assert "[MASK]" in (caught.value.hint or "")


def test_mask_beyond_the_length_is_refused_and_a_cut_text_says_so(opened):
    """The model takes 64 tokens with its own two."""
    with pytest.raises(UsageError, match="0 masks in its first 64 tokens"):
        opened().predict([Text("pump " * 80 + "[MASK]")])
    (answer,) = opened().predict([Text("new [MASK] " + "pump " * 80)])
    assert answer["truncated"] == {"tokens": 84, "read": 64}
    assert answer["fills"][0]["sequence"].startswith("new filter pump")


def test_several_texts_have_their_own_masks(opened):
    """Padding counts for nothing."""
    long, short = opened().predict([Text("check the new valve , then the [MASK]"), Text("new [MASK]")])
    assert long["fills"][0]["sequence"] == "check the new valve, then the filter"
    assert short["fills"][0]["sequence"] == "new filter"


def test_tokenizer_without_the_mask_is_a_malformed_bundle(opened):
    """No text of this bundle could be answered."""
    with pytest.raises(RejectedError, match="no token '<mask>'"):
        opened(mask="<mask>").predict([Text("new <mask>")])


@pytest.mark.parametrize("shape", [(2, 3), (0,)])
def test_logits_of_another_shape_are_a_malformed_bundle(shape):
    """One row over the vocabulary belongs to the mask."""
    with pytest.raises(RejectedError, match="scores of tokens have shape"):
        fills(Row(outputs={"logits": np.zeros(shape, np.float32)}), SPEC)


def test_answers_agree_by_their_first_token():
    """Scores of two trainings differ always."""
    one, same, other = (
        [{"fills": [{"token_str": word, "score": score}]}] for word, score in (("a", 1), ("a", 0.5), ("b", 1))
    )
    assert agree(one, same, SPEC)
    assert not agree(one, other, SPEC)
