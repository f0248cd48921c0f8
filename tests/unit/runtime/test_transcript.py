"""Text written token by token, from logits that a script gives."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import DecodedTranscript
from edgeml_runtime.generate.transcript import Transcriber
from edgeml_runtime.tasks import Sound

WORDS = ("<end>", "<begin>", "<en>", "<de>", "<write>", "one", "two", "<0.00>", "never")
END, BEGIN, EN, DE, WRITE, ONE, TWO, TIME, NEVER = range(len(WORDS))
SPEC = DecodedTranscript(
    output="logits",
    tokenizer="tokenizer.json",
    past=("past",),
    present=("present",),
    cross=("cross",),
    cross_present=("cross_present",),
    start=(BEGIN,),
    task=(WRITE,),
    languages={"en": EN, "de": DE},
    stop_ids=(END,),
    suppressed=(NEVER,),
    suppressed_first=(END,),
    times_from=TIME,
    max_tokens=8,
)
INPUTS = tuple(
    TensorSpec(name=name, dtype=dtype, shape=shape)
    for name, dtype, shape in (
        ("features", "float32", (1, 2, -1)),
        ("decoder_input_ids", "int64", (1, -1)),
        ("position_ids", "int64", (1, -1)),
        ("past", "float32", (1, 1, -1, 2)),
        ("cross", "float32", (1, 1, -1, 2)),
    )
)
FEATURES = np.ones((1, 2, 10), np.float32)
WHOLE = Sound(seconds=1.0, read=1.0)


class Script:
    """A session whose next token is the script's; it checks what a decoder of this form relies on."""

    def __init__(self, *tokens: tuple[int, ...] | int) -> None:
        self.tokens = list(tokens)
        self.read: list[list[int]] = []

    def run(self, inputs):
        """Give the first of the tokens the highest score, the next one the second."""
        ids, before = inputs["decoder_input_ids"][0].tolist(), inputs["past"].shape[2]
        frames, known = inputs["features"].shape[2], inputs["cross"].shape[2]
        assert (frames, known) == ((0, 5) if self.read else (10, 0))
        assert inputs["position_ids"].tolist() == [[*range(before, before + len(ids))]]
        assert before == sum(map(len, self.read))
        self.read.append(ids)
        logits = np.zeros((1, 1, len(WORDS)), np.float32)
        wanted = self.tokens.pop(0)
        for rank, token in enumerate((wanted,) if isinstance(wanted, int) else wanted):
            logits[0, 0, token] = 9 - rank
        kept = np.zeros((1, 1, before + len(ids), 2), np.float32)
        return {"logits": logits, "present": kept, "cross_present": np.zeros((1, 1, frames // 2, 2), np.float32)}

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def transcribe(tmp_path: Path):
    """Write the text of a script."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<end>"))
    tokenizer.add_special_tokens([word for word in WORDS if word.startswith("<") and word != "<0.00>"])
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    def run(script, *, language=None, about=WHOLE, stopped=lambda: False, spec=SPEC):
        return Transcriber(tmp_path, INPUTS, spec).transcribe(FEATURES, language, about, script, stopped)

    return run


def test_the_language_of_the_sound_is_the_likeliest_of_the_known(transcribe):
    """One run more, whose token isn't read twice."""
    script = Script((ONE, DE, EN), ONE, TWO, END)
    assert transcribe(script) == {"text": "one two", "language": "de"}
    assert script.read == [[BEGIN], [DE, WRITE], [ONE], [TWO]]


@pytest.mark.parametrize(("named", "usual"), [("en", None), (None, "en"), ("en", "de")])
def test_a_language_by_request_or_by_the_model_is_not_looked_for(transcribe, named, usual):
    """The request's comes first."""
    script = Script(ONE, END)
    found = transcribe(script, language=named, spec=msgspec.structs.replace(SPEC, language=usual))
    assert found == {"text": "one", "language": "en"}
    assert script.read == [[BEGIN, EN, WRITE], [ONE]]


def test_a_model_of_one_language_has_no_token_of_it(transcribe):
    """English alone may be requested, and no language is reported."""
    english = msgspec.structs.replace(SPEC, languages={})
    script = Script(ONE, END)
    assert transcribe(script, language="en", spec=english) == {"text": "one"}
    assert script.read[0] == [BEGIN, WRITE]
    with pytest.raises(UsageError, match="'de'"):
        transcribe(Script(), language="de", spec=english)


def test_suppressed_tokens_are_never_written_and_others_not_first(transcribe):
    """The next likeliest one is taken instead."""
    script = Script((END, ONE), (NEVER, TWO), (END, ONE))
    assert transcribe(script, language="en")["text"] == "one two"


def test_times_are_no_text_and_the_text_ends_with_the_decoders_room(transcribe):
    """Eight tokens with the three that begin."""
    script = Script(TIME, ONE, TIME, TWO, ONE)
    assert transcribe(script, language="en")["text"] == "one two one"
    assert script.tokens == []


def test_a_sound_that_was_cut_is_reported(transcribe):
    """As other recognizers do."""
    found = transcribe(Script(ONE, END), language="en", about=Sound(seconds=40.0, read=30.0))
    assert found["truncated"] == {"seconds": 40.0, "read": 30.0}


def test_a_client_that_left_ends_the_text_at_the_next_token(transcribe):
    """The model is free for others."""
    script = Script(ONE, TWO, TWO, TWO)
    with pytest.raises(TransportError, match="left"):
        transcribe(script, language="en", stopped=lambda: len(script.read) == 2)
    assert len(script.read) == 2


def test_scores_that_are_no_numbers_are_an_error_of_the_device(transcribe, monkeypatch):
    """They have no likeliest token."""
    run = Script.run

    def broken(self, inputs):
        return {**run(self, inputs), "logits": np.full((1, 1, len(WORDS)), np.nan, np.float32)}

    monkeypatch.setattr(Script, "run", broken)
    with pytest.raises(DeviceError, match="NaN"):
        transcribe(Script(ONE), language="en")


@pytest.mark.parametrize("inputs", [INPUTS[1:], INPUTS[:-1], (*INPUTS, msgspec.structs.replace(INPUTS[0], name="x"))])
def test_a_model_of_other_inputs_is_refused(tmp_path, inputs):
    """A sound fills one of them, the tokens and the caches all others."""
    with pytest.raises(RejectedError, match="doesn't fill"):
        Transcriber(tmp_path, inputs, SPEC)
