"""The generation loop: prompts, drawn tokens, likelihoods."""

import math

import numpy as np
import pytest

from edgeml_core.errors import UsageError
from edgeml_runtime.generate.loop import likelihood
from edgeml_runtime.model import Model
from support.task_models import NAMES, writer


@pytest.mark.parametrize("temperature", [1e-310, 1e-250, 1e-46, 1e-39, 1e-6, 1e-3])
def test_generate_nearly_no_temperature_takes_the_likeliest_token(unpack, temperature):
    """A temperature by which float32 can't divide is none."""
    bundle = unpack(lambda path: writer(path, (NAMES["text-generation"], "1.0", "x86-vnni")))
    model = Model.open(bundle.folder, bundle.manifest)
    request = {"prompt": "check the valve", "max_new_tokens": 4, "seed": 3}
    (cold,) = model.predict(model.parse(request))
    assert model.predict(model.parse(request | {"temperature": temperature})) == [cold]
    assert cold["tokens"] == 4


@pytest.fixture
def model(unpack):
    """A tiny language model with weights that mean nothing."""
    bundle = unpack(lambda path: writer(path, (NAMES["text-generation"], "1.0", "x86-vnni")))
    return Model.open(bundle.folder, bundle.manifest)


def test_generate_top_p_of_zero_takes_the_likeliest_token(model):
    """At any temperature: the nucleus always has one token."""
    request = {"prompt": "check the valve", "max_new_tokens": 4}
    (greedy,) = model.predict(model.parse(request))
    for seed in range(5):
        (drawn,) = model.predict(model.parse(request | {"temperature": 10.0, "top_p": 0.0, "seed": seed}))
        assert drawn["text"] == greedy["text"]


def test_generate_seed_repeats_an_answer(model):
    """The same seed draws the same tokens; other seeds draw others."""
    request = {"prompt": "check the valve", "max_new_tokens": 8, "temperature": 10.0}

    def texts(seeds):
        return [model.predict(model.parse(request | {"seed": seed}))[0]["text"] for seed in seeds]

    assert texts(range(8)) == texts(range(8))
    assert len(set(texts(range(8)))) > 1


def test_generate_prompt_without_tokens_is_input_invalid(model):
    """The error has the value and the limit."""
    with pytest.raises(UsageError, match="the prompt has 0 tokens") as caught:
        model.predict(model.parse({"prompt": ""}))
    assert caught.value.code == "input-invalid"
    assert caught.value.hint.startswith("send 1 to ")


def test_likelihood_is_the_sum_of_log_probabilities():
    """Each token's, given those before it; the first one is given."""
    logits = np.log(np.array([[[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]], np.float32))
    found = likelihood({"input_ids": np.array([[0, 1, 0]])}, lambda _: {"logits": logits}, output="logits")
    assert found["tokens"] == 2
    assert found["log_likelihood"] == pytest.approx(math.log(0.75) + math.log(0.5), rel=1e-6)


def test_likelihood_of_extreme_logits_is_finite():
    """float32's exponential would overflow."""
    logits = np.array([[[3e4, -3e4], [3e4, -3e4]]], np.float32)
    found = likelihood({"input_ids": np.array([[0, 1]])}, lambda _: {"logits": logits}, output="logits")
    assert found["log_likelihood"] == pytest.approx(-6e4)
