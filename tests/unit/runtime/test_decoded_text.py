"""Texts made of texts token by token, from logits that a script gives."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import DecodedText, TextInput
from edgeml_runtime.generate.decoded_text import Rewriter
from edgeml_runtime.tasks import Text
from edgeml_runtime.verify import golden
from support.samples import a_manifest

WORDS = ("<end>", "<begin>", "one", "two", "three", "<unk>")
END, BEGIN, ONE, TWO, THREE, UNKNOWN = range(len(WORDS))
SPEC = DecodedText(
    output="logits",
    tokenizer="tokenizer.json",
    past=("past",),
    present=("present",),
    cross=("cross",),
    cross_present=("cross_present",),
    start=(BEGIN,),
    stop_ids=(END,),
    max_tokens=8,
)
TEXT = TextInput(tokenizer="tokenizer.json", max_length=4)
INPUTS = tuple(
    TensorSpec(name=name, dtype=dtype, shape=shape)
    for name, dtype, shape in (
        ("input_ids", "int64", (1, -1)),
        ("decoder_input_ids", "int64", (1, -1)),
        ("position_ids", "int64", (1, -1)),
        ("past", "float32", (1, 1, -1, 2)),
        ("cross", "float32", (1, 1, -1, 2)),
    )
)


class Script:
    """A session with the logits of a script; it checks that the text is read once."""

    def __init__(self, *logits: dict[int, float]) -> None:
        self.logits = list(logits)
        self.read: list[list[int]] = []

    def run(self, inputs):
        """Give the next logits."""
        ids, before = inputs["decoder_input_ids"][0].tolist(), inputs["past"].shape[2]
        read, known = inputs["input_ids"].shape[1], inputs["cross"].shape[2]
        assert (read > 0, known) == ((False, 5) if self.read else (True, 0))
        assert before == sum(map(len, self.read))
        self.read.append(ids)
        logits = np.zeros((1, 1, len(WORDS)), np.float32)
        for token, score in self.logits.pop(0).items():
            logits[0, 0, token] = score
        kept = np.zeros((1, 1, before + len(ids), 2), np.float32)
        return {"logits": logits, "present": kept, "cross_present": np.zeros((1, 1, 0 if known else 5, 2), np.float32)}

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a tokenizer of words."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<end>", "<begin>"])
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def rewrite(folder: Path, script: Script, text: str = "one two", **changes: object):
    """Write the text of a script."""
    rewriter = Rewriter(folder, TEXT, INPUTS, msgspec.structs.replace(SPEC, **changes))
    ids, about = rewriter.encode(Text(text))
    return rewriter.rewrite(ids, about, script, lambda: False)


def test_a_text_is_read_once_and_written_to_its_stop(folder):
    """The decoder's own first tokens are no part of it."""
    script = Script({TWO: 3}, {ONE: 3}, {END: 3})
    assert rewrite(folder, script) == {"text": "two one"}
    assert script.read == [[BEGIN], [TWO], [ONE]]


def test_a_forced_first_word_stands_in_the_text(folder):
    """The decoder reads it with the token that begins."""
    script = Script({ONE: 3}, {END: 3})
    assert rewrite(folder, script, start=(BEGIN, THREE))["text"] == "three one"
    assert script.read == [[BEGIN, THREE], [ONE]]


def test_a_text_ends_with_the_decoders_room(folder):
    """The first token counts."""
    assert rewrite(folder, Script({ONE: 3}, {TWO: 3}), max_tokens=3)["text"] == "one two"


def test_a_text_shorter_than_the_least_goes_on(folder):
    """By the likeliest token that is no stop."""
    script = Script({END: 3, ONE: 2}, {END: 3, TWO: 2}, {END: 3, TWO: 2})
    assert rewrite(folder, script, min_tokens=3)["text"] == "one two"


@pytest.mark.parametrize(
    ("length", "text"), [(0, "one two one two"), (1, "one two three"), (2, "one two one three"), (3, "one two one two")]
)
def test_no_sequence_of_the_given_length_stands_twice(folder, length, text):
    """A length of 0 allows all, and 1 each word once."""
    wanted = ({ONE: 9}, {TWO: 9, ONE: 8}, {ONE: 9, TWO: 8, THREE: 7}, {TWO: 9, THREE: 8, END: 7}, {END: 9})
    assert rewrite(folder, Script(*wanted), no_repeat=length)["text"] == text


def test_no_sequence_of_the_text_that_was_read_is_written(folder):
    """Of two words here: each alone may be."""
    script = Script({ONE: 9}, {TWO: 9, THREE: 8}, {TWO: 9}, {END: 9})
    assert rewrite(folder, script, no_repeat_read=2)["text"] == "one three two"


def test_words_that_stand_in_the_text_are_penalized(folder):
    """Positive logits are divided, negative ones multiplied."""
    script = Script({ONE: 3}, {ONE: 4, TWO: 3}, dict.fromkeys(range(len(WORDS)), -1) | {ONE: -0.6, TWO: -0.9})
    found = rewrite(folder, script, repetition_penalty=2.0, max_tokens=4, suppressed=(END, UNKNOWN, BEGIN))
    assert found["text"] == "one two three"


def test_suppressed_words_are_never_written_and_others_not_first(folder):
    """As for transcripts."""
    script = Script({ONE: 3, TWO: 2}, {THREE: 3, ONE: 2}, {END: 3})
    assert rewrite(folder, script, suppressed=(THREE,), suppressed_first=(ONE,))["text"] == "two one"


def test_a_text_longer_than_the_encoder_is_cut_and_reported(folder):
    """As classifiers report it."""
    found = rewrite(folder, Script({ONE: 3}, {END: 3}), "one two three one two three")
    assert found == {"text": "one", "truncated": {"tokens": 6, "read": 4}}


def test_a_text_without_tokens_is_refused(folder):
    """The encoder would have nothing to read."""
    with pytest.raises(UsageError, match="no tokens"):
        rewrite(folder, Script(), "  ")


def test_golden_cases_have_the_tokens_of_later_runs(folder):
    """A device must write them, so its kernels for an empty text are checked, too."""
    manifest = msgspec.structs.replace(a_manifest(), inputs=INPUTS, outputs=(), postprocess=SPEC)
    rewriter = Rewriter(folder, TEXT, INPUTS, SPEC)
    ids, _ = rewriter.encode(Text("one two"))
    usual = ({TWO: 3}, {ONE: 3}, {END: 3})
    cases = golden.record(Script(*usual), [rewriter.first(ids)])
    (case,) = golden.with_tokens(Script(*usual), manifest, cases, max_abs=0.5)
    assert case.tokens == (TWO, ONE, END)
    golden.check_tokens(Script(*usual), manifest, [case])
    with pytest.raises(DeviceError, match=f"writes token {THREE} at place 2"):
        golden.check_tokens(Script({TWO: 3}, {THREE: 3}, {END: 3}), manifest, [case])


@pytest.mark.parametrize("inputs", [INPUTS[1:], INPUTS[:-1], (*INPUTS, msgspec.structs.replace(INPUTS[0], name="x"))])
def test_a_model_of_other_inputs_is_refused(folder, inputs):
    """A text fills one of them, the tokens and the caches all others."""
    with pytest.raises(RejectedError, match="doesn't fill"):
        Rewriter(folder, TEXT, inputs, SPEC)
