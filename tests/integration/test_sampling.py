"""Sampling beside transformers' own logits processors, on random logits; their library is the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as judges

from edgeml_runtime.generate.logprobs import TokenTexts, written_token
from edgeml_runtime.generate.options import Continuation
from edgeml_runtime.generate.sampling import Sampler, candidates

SIZES = (5, 300, 20_000)
#: Options, and the processors of transformers with their values, in its order.
CASES = (
    {"top_k": 1},
    {"top_k": 50},
    {"top_p": 0.1},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 0.9},
    {"top_k": 40, "top_p": 0.95},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.1},
    {"top_p": 0.8, "min_p": 0.02},
)


def judged(scores, options, *, temperature=1.0):
    """The probabilities after transformers' warpers, in the order of its generation."""
    row = torch.from_numpy(scores[None].copy())
    chain = [judges.TemperatureLogitsWarper(temperature)]
    if "top_k" in options:
        chain.append(judges.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        chain.append(judges.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        chain.append(judges.MinPLogitsWarper(options["min_p"]))
    ids = torch.zeros((1, 1), dtype=torch.long)
    for one in chain:
        row = one(ids, row)
    return row.softmax(dim=-1)[0].numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_candidates_are_those_of_transformers(size, options, temperature):
    """The same tokens with the same probabilities, of flat and of steep logits."""
    generator = np.random.default_rng(size)
    for scale in (0.5, 3.0):
        logits = (generator.standard_normal(size) * scale).astype(np.float32)
        request = Continuation(max_new_tokens=1, temperature=temperature, seed=0, **options)
        ids, weights = candidates((logits - logits.max()) / np.float32(temperature), request)
        found = np.zeros(size)
        found[slice(None) if ids is None else ids] = weights / weights.sum()
        expected = judged(logits, options, temperature=temperature)
        # At the edge of a nucleus float32's sums may differ by a token; all others must be the same.
        differing = np.flatnonzero((found > 0) != (expected > 0))
        assert len(differing) <= ("top_p" in options)
        assert found[differing].max(initial=0) < 1e-3
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-7 if not len(differing) else 1e-4)


@pytest.mark.parametrize("penalty", [0.5, 1.1, 1.3, 5.0])
def test_a_repetition_penalty_is_that_of_transformers(penalty):
    """Over a whole greedy answer, with tokens in the prompt and repeated ones."""
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, 200, 30).tolist()
    request = Continuation(max_new_tokens=1, temperature=0.0, seed=0, repetition_penalty=penalty)
    sampler, written = Sampler(request, prompt, TokenTexts(None)), list(prompt)
    judge = judges.RepetitionPenaltyLogitsProcessor(penalty)
    for _ in range(100):
        logits = generator.standard_normal(200).astype(np.float32)
        expected = judge(torch.tensor([written]), torch.from_numpy(logits[None].copy()))[0].argmax()
        token = sampler.draw(logits).token
        assert token == int(expected)
        written.append(token)


def test_a_bias_comes_before_the_repetition_penalty_as_in_transformers():
    """The order of its generation: a sequence's bias, then the penalty."""
    generator = np.random.default_rng(1)
    bias = {3: 4.0, 7: -2.0}
    sequences = judges.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    repeats = judges.RepetitionPenaltyLogitsProcessor(1.5)
    for _ in range(200):
        prompt = generator.integers(0, 12, 4).tolist()
        logits = generator.standard_normal(12).astype(np.float32)
        ids, row = torch.tensor([prompt]), torch.from_numpy(logits[None].copy())
        expected = int(repeats(ids, sequences(ids, row))[0].argmax())
        options = {"logit_bias": bias, "repetition_penalty": 1.5}
        request = Continuation(max_new_tokens=1, temperature=0.0, seed=0, **options)
        assert Sampler(request, prompt, TokenTexts(None)).draw(logits).token == expected


def test_log_probabilities_are_those_of_torch():
    """Of a large vocabulary, with the twenty likeliest tokens."""

    class Names:
        """Names tokens by their ids."""

        def decode(self, ids):
            return "".join(f"<{it}>" for it in ids)

        def id_to_token(self, token):
            return f"<{token}>"

    logits = (np.random.default_rng(2).standard_normal(150_000) * 4).astype(np.float32)
    expected = torch.from_numpy(logits).double().log_softmax(dim=-1)
    best = expected.topk(20)
    found = written_token(logits, 77, 20, TokenTexts(Names()))
    assert found["logprob"] == pytest.approx(float(expected[77]), abs=1e-6)
    assert [it["token"] for it in found["top_logprobs"]] == [f"<{it}>" for it in best.indices.tolist()]
    assert [it["logprob"] for it in found["top_logprobs"]] == pytest.approx(best.values.tolist(), abs=1e-6)
