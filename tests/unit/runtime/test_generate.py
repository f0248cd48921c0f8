"""The generation loop: prompts, drawn tokens, likelihoods."""

import math

import numpy as np
import pytest

from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import Generation
from edgeml_runtime.generate import cache as cache_module
from edgeml_runtime.generate.cache import Cache, Decoder
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


class Scripted:
    """A session whose logits are given: after token 0 the first row, after token 1 the second."""

    def __init__(self, logits):
        self.logits = np.array(logits, np.float32)

    def run(self, inputs):
        """Take the rows by the tokens."""
        return {"logits": self.logits[inputs["input_ids"]]}


def _likelihood(ids, logits):
    spec = Generation(output="logits", stop_ids=(), past=(), present=())
    cache = Cache(Decoder((TensorSpec(name="input_ids", dtype="int64", shape=(-1, -1)),), spec), Scripted(logits))
    return likelihood(ids, cache)


def test_likelihood_is_the_sum_of_log_probabilities():
    """Each token's, given those before it; the first one is given."""
    found = _likelihood([0, 1, 0], np.log([[0.25, 0.75], [0.5, 0.5]]))
    assert found["tokens"] == 2
    assert found["log_likelihood"] == pytest.approx(math.log(0.75) + math.log(0.5), rel=1e-6)


def test_likelihood_of_extreme_logits_is_finite():
    """float32's exponential would overflow."""
    assert _likelihood([0, 1], [[3e4, -3e4], [0, 0]])["log_likelihood"] == pytest.approx(-6e4)


def test_likelihood_of_a_text_longer_than_a_run(monkeypatch):
    """Texts are read in parts; each token counts once."""
    whole = _likelihood([0, 1, 0, 1, 1, 0, 0], np.log([[0.25, 0.75], [0.5, 0.5]]))
    for most in (1, 2, 3, 6):
        monkeypatch.setattr(cache_module, "RUN_TOKENS_MAX", most)
        assert _likelihood([0, 1, 0, 1, 1, 0, 0], np.log([[0.25, 0.75], [0.5, 0.5]])) == whole
