"""Texts to tensors with a tiny real tokenizer; equality with transformers is an integration test."""

import pytest

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.manifest import TensorSpec, TextInput
from edgeml_runtime.text import Encoder
from tiny_models import tiny_tokenizer

IDS = TensorSpec(name="input_ids", dtype="int64", shape=(-1, -1))
MASK = TensorSpec(name="attention_mask", dtype="int32", shape=(-1, -1))
TYPES = TensorSpec(name="token_type_ids", dtype="int64", shape=(-1, -1))


@pytest.fixture
def encoder(tmp_path):
    """A function that makes an Encoder with the settings of a TextInput."""
    (tmp_path / "tokenizer.json").write_bytes(tiny_tokenizer())

    def make(inputs=(IDS, MASK, TYPES), **settings):
        text = TextInput(**({"tokenizer": "tokenizer.json", "max_length": 6} | settings))
        return Encoder(tmp_path / text.tokenizer, text, inputs)

    return make


def test_a_batch_is_padded_to_its_longest(encoder):
    """Shorter texts are filled with the pad id, and masked there."""
    tensors, _ = encoder(pad_id=9).encode(["Good film", "bad"])
    assert tensors["input_ids"].tolist() == [[2, 4, 6, 3], [2, 5, 3, 9]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert tensors["token_type_ids"].tolist() == [[0] * 4] * 2


def test_only_what_the_model_takes_is_made_in_its_types(encoder):
    """The tensors have the names and data types of the model's inputs."""
    tensors, _ = encoder(inputs=(MASK, IDS)).encode(["film"])
    assert {name: array.dtype.name for name, array in tensors.items()} == {
        "input_ids": "int64",
        "attention_mask": "int32",
    }


@pytest.mark.parametrize(("text", "length"), [("film", 4), ("film film", 4), ("film film film", 8), ("film " * 50, 8)])
def test_fixed_lengths_take_the_smallest_that_holds(encoder, text, length):
    """With fixed lengths the tensor has the smallest that holds the text, which is cut at the largest."""
    tensors, _ = encoder(pad_to=(8, 4), max_length=100).encode([text])
    assert tensors["input_ids"].shape == (1, length)


def test_too_long_a_text_is_cut_inside_its_special_tokens(encoder):
    """Cutting keeps the closing token."""
    tensors, (tokens,) = encoder(max_length=4).encode(["good bad film film"])
    assert tensors["input_ids"].tolist() == [[2, 4, 5, 3]]
    assert tokens.texts == ("[CLS]", "good", "bad", "[SEP]")


def test_tokens_know_their_place(encoder):
    """Each token has its span of characters, and special tokens are marked."""
    _, (tokens,) = encoder().encode(["so good"])
    assert tokens.spans == ((0, 0), (0, 2), (3, 7), (0, 0))
    assert tokens.special == (True, False, False, True)


def test_an_empty_text_is_its_special_tokens(encoder):
    """No text is still a valid input."""
    assert encoder().encode([""])[0]["input_ids"].tolist() == [[2, 3]]


def test_half_a_surrogate_pair_is_refused(encoder):
    """A string that is no Unicode text is an input error."""
    with pytest.raises(UsageError) as caught:
        encoder().encode(["\ud800"])
    assert caught.value.code == "input-invalid"


def test_an_input_that_no_tokenizer_gives_is_refused(encoder):
    """A text model with another input is a malformed bundle."""
    with pytest.raises(RejectedError, match="pixel_values"):
        encoder(inputs=(IDS, TensorSpec(name="pixel_values", dtype="float32", shape=(1,))))


def test_a_malformed_tokenizer_is_refused(encoder, tmp_path):
    """A tokenizer file that is no tokenizer is a malformed bundle."""
    (tmp_path / "other.json").write_bytes(b"{}")
    with pytest.raises(RejectedError, match="malformed"):
        encoder(tokenizer="other.json")


def test_a_missing_tokenizer_is_this_machines_fault(encoder):
    """A verified bundle's file that isn't there any more is a failed store."""
    with pytest.raises(DeviceError) as caught:
        encoder(tokenizer="absent.json")
    assert caught.value.code == "store-failed"
