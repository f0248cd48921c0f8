"""The next token: what each option leaves, by its own definition written out, and how drawn tokens are distributed."""

import math

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgeml_core.errors import DeviceError, UsageError
from edgeml_runtime.generate.logprobs import TokenTexts, written_token
from edgeml_runtime.generate.options import Continuation
from edgeml_runtime.generate.sampling import Sampler, candidates

LOGITS = np.log(np.float32([0.4, 0.3, 0.2, 0.06, 0.04]))
WORDS = Tokenizer(models.WordLevel({word: number for number, word in enumerate("abcde")}, "a"))
WORDS.decoder = decoders.Fuse()
TEXTS = TokenTexts(WORDS)


def sampler(prompt=(), *, guide=None, **options):
    """A sampler with options; greedy where no temperature is given."""
    wanted = {"max_new_tokens": 1, "temperature": 0.0, "seed": 0} | options
    return Sampler(Continuation(**wanted), prompt, TEXTS, guide)


def left(**options):
    """The tokens that an option leaves, and their probabilities."""
    wanted = Continuation(max_new_tokens=1, temperature=1.0, seed=0, **options)
    ids, weights = candidates(LOGITS - LOGITS.max(), wanted)
    ids = range(len(weights)) if ids is None else ids.tolist()
    return dict(zip(ids, (weights / weights.sum()).tolist(), strict=True))


def test_draw_without_options_takes_the_likeliest_token():
    """And the first of equal ones."""
    assert sampler().draw(LOGITS).token == 0
    assert sampler().draw(np.float32([1, 7, 7])).token == 1


def test_draw_leaves_the_logits_as_they_are():
    """They belong to the model's run."""
    logits = LOGITS.copy()
    changing = sampler((1,), repetition_penalty=2.0, presence_penalty=1.0, logit_bias={2: 3.0}, temperature=1.0)
    for _ in range(3):
        changing.draw(logits)
    assert np.array_equal(logits, LOGITS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.0}, [0]),
        ({"top_p": 0.39}, [0]),
        ({"top_p": 0.41}, [0, 1]),
        ({"top_p": 0.95}, [0, 1, 2, 3]),
        ({"min_p": 0.4}, [0, 1, 2]),
        ({"min_p": 1.0}, [0]),
        # Of the three likeliest, 4/9 + 3/9 reach 0.75; of all tokens 0.7 don't.
        ({"top_k": 3, "top_p": 0.75}, [0, 1]),
        ({"top_k": 4, "top_p": 0.95, "min_p": 0.6}, [0, 1]),
    ],
)
def test_candidates_are_the_likeliest_tokens(options, expected):
    """Those that the option's definition leaves, in their proportions."""
    found = left(**options)
    assert list(found) == expected
    shares = np.exp(LOGITS[expected]) / np.exp(LOGITS[expected]).sum()
    assert list(found.values()) == pytest.approx(shares.tolist(), rel=1e-5)


def test_candidates_with_top_k_include_equal_logits():
    """No token is preferred to one as likely."""
    ids, _ = candidates(np.float32([0, -1, -1, -2]), Continuation(max_new_tokens=1, temperature=1, seed=0, top_k=2))
    assert ids.tolist() == [0, 1, 2]


def test_draw_is_distributed_by_probability():
    """20,000 draws at temperature 2: each share within five standard deviations."""
    drawing, count = sampler(temperature=2.0), 20_000
    found = np.bincount([drawing.draw(LOGITS).token for _ in range(count)], minlength=5) / count
    expected = np.sqrt(np.exp(LOGITS))
    expected /= expected.sum()
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / count))


def test_penalties_are_subtracted_by_count_and_once():
    """OpenAI's formula: logit - count * frequency - (count > 0) * presence, of the answer's tokens alone."""
    frequency, presence = 0.07, 0.2
    penalized = sampler((1, 1, 1), frequency_penalty=frequency, presence_penalty=presence)
    counts, found, expected = [0] * 5, [], []
    for _ in range(30):
        values = [
            float(logit) - count * frequency - (count > 0) * presence
            for logit, count in zip(LOGITS, counts, strict=True)
        ]
        expected.append(values.index(max(values)))
        found.append(penalized.draw(LOGITS).token)
        counts[found[-1]] += 1
    assert found == expected
    assert len(set(found)) > 2


def test_repetition_penalty_counts_the_prompt_too():
    """Positive logits are divided, negative ones multiplied."""
    assert sampler((0,), repetition_penalty=2.0).draw(np.float32([3, 2, -1])).token == 1
    assert sampler((0, 1), repetition_penalty=4.0).draw(np.float32([-1, -1.5, -3])).token == 2
    assert sampler((0,), repetition_penalty=1.4).draw(np.float32([3, 2, -1])).token == 0


def test_logit_bias_decides_alone_at_its_bounds():
    """100 requires a token, -100 forbids it."""
    assert sampler(logit_bias={4: 100}).draw(LOGITS).token == 4
    forbidding = sampler(logit_bias={0: -100, 1: -100}, temperature=1.0)
    assert not {0, 1} & {forbidding.draw(LOGITS).token for _ in range(200)}


def test_logit_bias_beyond_the_vocabulary_is_input_invalid():
    """The error has the token and the limit."""
    with pytest.raises(UsageError, match="logit_bias has the token 5, and the model has 5 tokens"):
        sampler(logit_bias={5: 1.0}).draw(LOGITS)


@pytest.mark.parametrize("broken", [[1, float("nan")], [float("inf"), 1], [float("-inf")] * 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_draw_from_broken_logits_fails(broken, temperature):
    """A model that overflows gives no text."""
    with pytest.raises(DeviceError, match="largest logit") as caught:
        sampler(temperature=temperature).draw(np.float32(broken))
    assert caught.value.code == "runtime-failed"


def test_log_probabilities_are_the_models_own():
    """Before temperature, bias and penalties."""
    drawn = sampler(logprobs=2, logit_bias={4: 100}, temperature=0.1).draw(LOGITS + 5).logprob
    assert (drawn["token"], drawn["bytes"]) == ("e", [ord("e")])
    assert drawn["logprob"] == pytest.approx(math.log(0.04), abs=1e-5)
    assert [it["token"] for it in drawn["top_logprobs"]] == ["a", "b"]
    assert drawn["top_logprobs"][1]["logprob"] == pytest.approx(math.log(0.3), abs=1e-5)


def test_log_probabilities_of_impossible_tokens_are_numbers():
    """JSON has no infinity; equally likely tokens come by their ids, and no more than there are."""
    found = written_token(np.float32([1, -np.inf, 1]), 1, 9, TEXTS)
    assert found["logprob"] == -9999
    assert [it["token"] for it in found["top_logprobs"]] == ["a", "c", "b"]


class OnlyOdd:
    """A guide that allows odd tokens, and two of them."""

    def __init__(self):
        self.taken = []

    def allowed(self, size):
        """Return which tokens are odd."""
        return np.arange(size) % 2 == 1

    def advance(self, token):
        """Return whether two were taken."""
        self.taken.append(token)
        return len(self.taken) == 2


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_guide_forbids_tokens_and_ends_the_answer(temperature):
    """No option leaves a token that it forbids."""
    guide = OnlyOdd()
    guided = sampler(guide=guide, temperature=temperature, top_k=2, logit_bias={2: 100})
    drawn = [guided.draw(LOGITS) for _ in range(2)]
    assert [it.is_last for it in drawn] == [False, True]
    assert guide.taken == [it.token for it in drawn]
    assert set(guide.taken) <= {1, 3}


def bytes_tokenizer():
    """Byte-level, with a token for each byte, two words and a special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({name: number for number, name in enumerate([*alphabet, "Ġpump", "ä½"])}, []))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    return made


def pieces_tokenizer():
    """Pieces with a mark for the space, and tokens for bytes, as sentencepiece has them."""
    names = ["<unk>", "▁pump", "s", "<0xE4>", "<0xBD>"]
    made = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, [], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


@pytest.mark.parametrize(
    ("make", "name", "text", "data"),
    [
        (bytes_tokenizer, "Ġpump", " pump", b" pump"),
        (bytes_tokenizer, "ä½", "\N{REPLACEMENT CHARACTER}", b"\xe4\xbd"),
        (bytes_tokenizer, "<|end|>", "<|end|>", b"<|end|>"),
        (pieces_tokenizer, "▁pump", " pump", b" pump"),
        (pieces_tokenizer, "s", "s", b"s"),
        (pieces_tokenizer, "<0xE4>", "\N{REPLACEMENT CHARACTER}", b"\xe4"),
    ],
)
def test_token_texts_are_those_within_a_text(make, name, text, data):
    """With the space before a word; a part of a character has its bytes."""
    tokenizer = make()
    found = TokenTexts(tokenizer).named(tokenizer.token_to_id(name), -1.0)
    assert found == {"token": text, "bytes": list(data), "logprob": -1.0}


def test_bytes_of_all_byte_tokens_are_themselves():
    """The tokenizers library's own alphabet: each of its characters is one byte, and all 256 are there."""
    tokenizer = bytes_tokenizer()
    named = [TokenTexts(tokenizer).named(number, 0.0)["bytes"] for number in range(256)]
    assert sorted(named) == [[byte] for byte in range(256)]
