"""Texts to tensors with a tiny real tokenizer; equality with transformers is an integration test."""

import itertools

import pytest

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import QuestionInput, TextInput
from edgeml_runtime.encode.text import WINDOWS_MAX, Encoder
from edgeml_runtime.tasks import Question, Text
from support.tiny_models import tiny_tokenizer

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
    tensors, _ = encoder(pad_id=9).encode([Text("Good film"), Text("bad")])
    assert tensors["input_ids"].tolist() == [[2, 4, 6, 3], [2, 5, 3, 9]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert tensors["token_type_ids"].tolist() == [[0] * 4] * 2


def test_only_what_the_model_takes_is_made_in_its_types(encoder):
    """The tensors have the names and data types of the model's inputs."""
    tensors, _ = encoder(inputs=(MASK, IDS)).encode([Text("film")])
    assert {name: array.dtype.name for name, array in tensors.items()} == {
        "input_ids": "int64",
        "attention_mask": "int32",
    }


@pytest.mark.parametrize(("text", "length"), [("film", 4), ("film film", 4), ("film film film", 8), ("film " * 50, 8)])
def test_fixed_lengths_take_the_smallest_that_holds(encoder, text, length):
    """With fixed lengths the tensor has the smallest that holds the text, which is cut at the largest."""
    tensors, _ = encoder(pad_to=(8, 4), max_length=100).encode([Text(text)])
    assert tensors["input_ids"].shape == (1, length)


def test_too_long_a_text_is_cut_inside_its_special_tokens(encoder):
    """Cutting keeps the closing token."""
    tensors, (tokens,) = encoder(max_length=4).encode([Text("good bad film film")])
    assert tensors["input_ids"].tolist() == [[2, 4, 5, 3]]
    assert tokens.texts == ("[CLS]", "good", "bad", "[SEP]")


def test_what_is_cut_is_counted(encoder):
    """Without the special tokens that frame each part; a text that fits lacks nothing."""
    _, (cut, whole) = encoder(max_length=4).encode([Text("good bad film film film"), Text("good bad")])
    assert (cut.unread, whole.unread) == (3, 0)


def test_the_beginning_is_cut_where_the_model_reads_the_end(encoder):
    """Of one text, and of the longer one of two; what is missing is counted as ever."""
    of_end = encoder(max_length=6, cut="left")
    tensors, (alone, pair) = of_end.encode([Text("good good bad film film film"), Text("bad bad film good", "bad")])
    assert tensors["input_ids"].tolist() == [[2, 5, 6, 6, 6, 3], [2, 6, 4, 3, 5, 3]]
    assert (alone.unread, pair.unread) == (2, 2)


def test_two_texts_are_one_row(encoder):
    """The second one follows in the same row, of the second type."""
    tensors, (tokens,) = encoder(max_length=8).encode([Text("good film", "bad")])
    assert tensors["input_ids"].tolist() == [[2, 4, 6, 3, 5, 3]]
    assert tensors["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]
    assert tokens.unread == 0


def test_of_two_texts_the_longer_one_is_cut(encoder):
    """The tokens of both that are missing are counted once."""
    tensors, (tokens,) = encoder(max_length=6).encode([Text("good bad film film film film", "bad")])
    assert tensors["input_ids"].tolist() == [[2, 4, 5, 3, 5, 3]]
    assert tokens.unread == 4


@pytest.fixture
def asking(tmp_path):
    """A function that makes an Encoder of questions."""
    (tmp_path / "tokenizer.json").write_bytes(tiny_tokenizer())

    def make(max_length=10, **settings):
        question = QuestionInput(tokenizer="tokenizer.json", max_length=max_length, **settings)
        return Encoder(tmp_path / "tokenizer.json", question, (IDS, MASK))

    return make


def read_of(windows, context):
    """The parts of a context that windows hold."""
    return [
        context[min(it for it, _ in found) : max(it for _, it in found)]
        for found in ([word for word in window.tokens.words if word] for window in windows)
    ]


def test_a_context_that_fits_is_read_at_once(encoder, asking):
    """With the question before it."""
    (window,) = asking().windows(Question("good film", "bad film"))
    assert window.tokens.words == (None, None, None, None, (0, 3), (4, 8), None)
    assert asking().joined([window])["attention_mask"].tolist() == [[1] * 7]


def test_a_long_context_is_read_in_windows_that_overlap(asking):
    """By half of the model's length, or of what the question leaves; each character is read, and in its place."""
    context = " ".join(f"w{number}" for number in range(20))
    for question, shared in (("good", 5), ("good film good", 2)):
        windows = asking().windows(Question(question, context))
        parts = read_of(windows, context)
        assert parts[0].startswith("w0 ")
        assert parts[-1].endswith(" w19")
        for before, after in itertools.pairwise(parts):
            assert before.split()[-shared:] == after.split()[:shared]
        assert {len(window.encoding.ids) for window in windows[:-1]} == {10}


def test_fixed_lengths_hold_windows(asking):
    """Of the largest one."""
    encoder = asking(max_length=100, pad_to=(4, 8))
    windows = encoder.windows(Question("good", "film " * 9))
    assert len(windows) > 1
    assert encoder.joined(windows[:1])["input_ids"].shape == (1, 8)


@pytest.mark.parametrize(
    ("question", "context", "code"),
    [
        ("good " * 10, "film", "prompt-too-long"),
        ("good", "film " * 5 * WINDOWS_MAX, "prompt-too-long"),
        ("good", "", "input-invalid"),
        ("\ud800", "film", "input-invalid"),
        ("good", "\ud800", "input-invalid"),
    ],
)
def test_what_cannot_be_looked_through_is_refused(asking, question, context, code):
    """A question without room beside it, a context of too many windows or none, half a surrogate pair."""
    with pytest.raises(UsageError) as caught:
        asking().windows(Question(question, context))
    assert caught.value.code == code


def test_tokens_know_their_place(encoder):
    """Each token has its span of characters, and special tokens are marked."""
    _, (tokens,) = encoder().encode([Text("so good")])
    assert tokens.spans == ((0, 0), (0, 2), (3, 7), (0, 0))
    assert tokens.special == (True, False, False, True)


def test_an_empty_text_is_its_special_tokens(encoder):
    """No text is still a valid input."""
    assert encoder().encode([Text("")])[0]["input_ids"].tolist() == [[2, 3]]


def test_half_a_surrogate_pair_is_refused(encoder):
    """A string that is no Unicode text is an input error."""
    with pytest.raises(UsageError) as caught:
        encoder().encode([Text("\ud800")])
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
