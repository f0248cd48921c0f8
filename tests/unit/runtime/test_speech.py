"""From frames to text, on paths that can be read by eye."""

from __future__ import annotations

from functools import partial

import msgspec
import numpy as np
import pytest

from edgeml_core.errors import RejectedError
from edgeml_core.processing import Transcript
from edgeml_runtime.drift_features import observations
from edgeml_runtime.model import Model
from edgeml_runtime.postprocess.speech import certainty, transcript, word_errors
from edgeml_runtime.tasks import Audio, Row, Sound
from edgeml_runtime.verify.agreement import agree
from support import task_models

TOKENS = ("_", "|", "A", "B", "'", "s")
SPEC = Transcript(output="y", tokens=TOKENS, blank="_", delimiter="|")


def row(path: str, **about: float) -> Row:
    """A row whose frames have these tokens as their likeliest."""
    logits = np.zeros((len(path), len(TOKENS)), np.float32)
    for frame, token in enumerate(path):
        logits[frame, TOKENS.index(token)] = 5
    return Row(outputs={"y": logits}, about=Sound(**about) if about else None)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("AAA_BB", "AB"),
        ("A_A", "AA"),  # a blank between two tokens keeps both
        ("AA", "A"),
        ("|A||B_|", "A B"),  # white space at the ends falls away
        ("A|_|B", "A  B"),
        ("___", ""),
        ("", ""),
    ],
)
def test_transcript_is_the_best_path(path, text):
    """Neighbours of one token are one, blanks are none, and the delimiter is a space."""
    assert transcript(row(path), SPEC) == {"text": text}


def test_transcript_follows_the_tokenizers_rules():
    """Its case, its space and its punctuation."""
    rules = msgspec.structs.replace(SPEC, lowercase=True, clean_up=True)
    assert transcript(row("AB|'sA"), rules) == {"text": "ab'sa"}
    assert transcript(row("AB|'sA"), SPEC) == {"text": "AB 'sA"}
    assert transcript(row("A|B"), msgspec.structs.replace(SPEC, space="-")) == {"text": "A-B"}


def test_transcript_of_a_cut_sound_says_so():
    """In seconds."""
    assert transcript(row("A", seconds=40.0, read=30.0), SPEC)["truncated"] == {"seconds": 40.0, "read": 30.0}


def test_logits_for_other_tokens_are_a_malformed_bundle():
    """A name for each is needed."""
    with pytest.raises(RejectedError, match="for 6 labels"):
        transcript(Row(outputs={"y": np.zeros((2, 5), np.float32)}), SPEC)


def test_certainty_is_the_mean_of_the_frames():
    """Of no frame nothing is uncertain."""
    assert certainty(row("AB"), SPEC) == pytest.approx(np.exp(5) / (np.exp(5) + 5))
    assert certainty(row(""), SPEC) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [("a b c", "a b c", 0), ("", "a b", 2), ("a x c", "a b c", 1), ("a b c d", "b c", 2), ("b a", "a b", 2)],
)
def test_word_errors_are_the_fewest_changes(one, other, count):
    """Words inserted, deleted or replaced."""
    assert word_errors(one.split(), other.split()) == word_errors(other.split(), one.split()) == count


def test_transcripts_agree_but_for_one_word_in_ten():
    """Two good recognizers differ in some words; case counts for nothing."""
    ten = "the pump in hall two has stopped since this morning"
    one, same, other = ([{"text": text}] for text in (ten, ten.upper().replace("HALL", "ALL"), ten[:-12]))
    assert agree(one, same, SPEC)
    assert not agree(one, other, SPEC)
    assert agree([{"text": ""}], [{"text": ""}], SPEC)


def test_sound_is_written_down_and_observed(unpack):
    """Through the runtime: quiet, silent, loud; the certainty is a feature."""
    bundle = unpack(partial(task_models.bundle, task="automatic-speech-recognition"))
    model, found = Model.open(bundle.folder, bundle.manifest), []
    model.observed = lambda run: found.extend(observations(run, bundle.manifest))
    samples = np.repeat(np.float32([0.25, 0.25, 0.0, 0.9, 0.9]), 400)
    assert model.predict([Audio(samples, task_models.RATE_HZ)]) == [{"text": "quietloud"}]
    assert found[0].keys() == {"score", "loudness dB", "duration s"}
    assert 0.5 < found[0]["score"] < 1
