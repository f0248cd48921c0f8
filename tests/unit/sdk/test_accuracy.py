"""Accuracy: paired, with an interval, judged by the gate."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from edgeml.check import accuracy
from edgeml.check.data import Row
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.processing import (
    Classes,
    Embedding,
    Generation,
    MaskFill,
    Postprocess,
    Span,
    TensorOutput,
    TokenClasses,
    Transcript,
)
from edgeml_runtime.tasks import Text
from support import samples


def manifest_with(postprocess: Postprocess):
    return msgspec.structs.replace(samples.a_manifest(), postprocess=postprocess)


CLASSES = manifest_with(Classes(output="y", labels=("a", "b"), activation="softmax"))


def says(label: str) -> dict[str, object]:
    other = "b" if label == "a" else "a"
    return {"labels": [{"label": label, "score": 0.9}, {"label": other, "score": 0.1}]}


def rows(*labels: object) -> list[Row]:
    return [Row(item=Text("t"), label=label) for label in labels]


def test_measure_drop_is_paired_row_by_row():
    """Of four rows fp32 gets all right and int8 three: a drop of a quarter."""
    given = rows("a", "b", 0, "a")
    fp32 = [says("a"), says("b"), says("a"), says("a")]
    found = accuracy.measure(fp32, [*fp32[:3], says("b")], given, CLASSES)
    assert (found.metric, found.rows) == ("accuracy", 4)
    assert (found.fp32, found.int8, found.drop) == (1.0, 0.75, 0.25)
    assert found.ci95[0] < 0.25 < found.ci95[1]


def test_measure_classes_lists_the_worst_first():
    """Both a lost and kept rows of a, the only b lost: b comes first, with its count."""
    given = rows("a", "a", "b")
    found = accuracy.measure([says("a"), says("a"), says("b")], [says("a"), says("b"), says("a")], given, CLASSES)
    assert [(it.label, it.rows, it.fp32, it.int8) for it in found.classes] == [("b", 1, 1.0, 0.0), ("a", 2, 1.0, 0.5)]


def test_interval_equals_agresti_and_min():
    """Worked by hand: 3 lost, 1 won of 98: n=100, difference 0.02, standard error sqrt(5 - 0.04)/100."""
    low, high = accuracy.interval(lost=3, won=1, pairs=98)
    half = 1.959964 * np.sqrt(5 - 0.04) / 100
    assert low == pytest.approx(0.02 - half, abs=1e-6)
    assert high == pytest.approx(0.02 + half, abs=1e-6)


def test_interval_without_observed_difference_has_width():
    """Ten equal rows leave room for a drop; a thousand leave next to none."""
    assert accuracy.interval(lost=0, won=0, pairs=10)[1] > 0.1
    assert accuracy.interval(lost=0, won=0, pairs=1000)[1] < 0.003


def test_check_drop_beyond_the_limit_fails():
    """One point is accepted by default; the message has the figures."""
    given = rows("a", "a")
    found = accuracy.measure([says("a")] * 2, [says("a"), says("b")], given, CLASSES)
    with pytest.raises(GateFailed, match=r"drops by 50\.00%, from 100\.00% to 50\.00%"):
        accuracy.check_drop(found, 0.01)
    accuracy.check_drop(found, 0.5)


def test_doubt_few_rows_warns():
    """Two rows without a difference can't rule out a drop; the card says so."""
    found = accuracy.measure([says("a")] * 2, [says("a")] * 2, rows("a", "a"), CLASSES)
    assert "2 rows can't rule out" in (accuracy.doubt(found, 0.01) or "")
    assert accuracy.doubt(found, 1.0) is None


@pytest.mark.parametrize("label", [None, "c", 2, -1])
def test_measure_unknown_label_is_refused(label: object):
    """By name or by index."""
    with pytest.raises(UsageError) as caught:
        accuracy.measure([says("a")], [says("a")], rows(label), CLASSES)
    assert caught.value.code == "data-invalid"


def test_measure_tensors_takes_the_largest_value():
    """A model without labels is right when its largest output is at the label's index."""
    answers = [{"outputs": {"y": [[0.1, 0.7, 0.2]]}}, {"outputs": {"y": [[0.9, 0.7, 0.2]]}}]
    assert accuracy.measure(answers, answers, rows(1, 1), manifest_with(TensorOutput())).fp32 == 0.5


def test_measure_embeddings_takes_the_nearest_neighbour():
    """Three of a label lie together; the fourth's neighbour has another label."""
    manifest = manifest_with(Embedding(output="y", pooling="mean", normalize=True))
    answers = [{"embedding": vector} for vector in ([1.0, 0.1], [1.0, 0.2], [1.0, 0.0], [0.7, 0.3])]
    found = accuracy.measure(answers, answers, rows("x", "x", "x", "y"), manifest)
    assert (found.metric, found.fp32) == ("nearest-neighbour accuracy", 0.75)


def test_measure_words_takes_their_first_token():
    """A word cut into two tokens counts once, and a list of labels of another length is refused."""
    manifest = manifest_with(TokenClasses(output="y", labels=("O", "PER")))
    tokens = [("An", 0, "PER"), ("##na", 2, "O"), ("ran", 5, "O")]
    answer = {
        "tokens": [{"token": t, "start": s, "end": s + 2, "label": label, "score": 1.0} for t, s, label in tokens]
    }
    row = Row(item=Text("Anna ran"), label=["PER", "PER"])
    assert accuracy.measure([answer], [answer], [row], manifest).fp32 == 0.5
    with pytest.raises(UsageError, match="2 words"):
        accuracy.measure([answer], [answer], [Row(item=Text("Anna ran"), label=["O"])], manifest)


def labelled(*tokens: tuple[int, int, str]) -> dict[str, Any]:
    return {"tokens": [{"token": "", "start": s, "end": e, "label": label, "score": 1.0} for s, e, label in tokens]}


def test_measure_words_finds_tokens_that_begin_with_the_space():
    """As those of Metaspace do; a space alone is the token of no word."""
    manifest = manifest_with(TokenClasses(output="y", labels=("O", "PER")))
    row = Row(item=Text("Anna ran  off"), label=["PER", "PER", "O"])
    answer = labelled((0, 4, "PER"), (4, 8, "O"), (8, 9, "PER"), (9, 13, "O"))
    found = accuracy.measure([answer], [answer], [row], manifest)
    assert found.fp32 == pytest.approx(2 / 3, abs=1e-6)
    assert {it.label: it.rows for it in found.classes} == {"PER": 2, "O": 1}


def test_measure_words_counts_one_without_a_token_as_wrong():
    """The tokenizer drops it; a word beyond the model's length counts for nothing."""
    manifest = manifest_with(TokenClasses(output="y", labels=("O", "PER")))
    row = Row(item=Text("Anna \u200b ran off"), label=["PER", "O", "O", "O"])
    answer = labelled((0, 4, "PER"), (7, 10, "O"))
    assert accuracy.measure([answer], [answer], [row], manifest).fp32 == pytest.approx(2 / 3, abs=1e-6)


def test_measure_spans_compares_word_for_word():
    """Case and spaces don't count; a question's answer never comes onto the card as a class."""
    manifest = manifest_with(Span(start="s", end="e", max_tokens=5))
    answers = [{"answer": text, "start": 0, "end": 9, "score": 0.5} for text in ("The  alarm", "the", "a pump")]
    found = accuracy.measure(answers, answers, rows("the alarm", "the alarm", "A pump"), manifest)
    assert found.metric == "exact match"
    assert found.fp32 == pytest.approx(2 / 3, abs=1e-6)
    assert [it.label for it in found.classes] == ["answer"]
    with pytest.raises(UsageError, match="not a text"):
        accuracy.measure(answers, answers, rows("the alarm", 1, "A pump"), manifest)


def test_measure_masks_compares_the_first_token():
    """Tokens of some vocabularies begin with a space; another word is wrong, and so is a row without one."""
    manifest = manifest_with(MaskFill(output="y", mask="[MASK]"))
    answers = [{"fills": [{"token_str": text}, {"token_str": "pump"}]} for text in (" pump", "valve")]
    found = accuracy.measure(answers, answers, rows("pump", "pump"), manifest)
    assert (found.metric, found.fp32) == ("accuracy", 0.5)
    with pytest.raises(UsageError, match="not a text"):
        accuracy.measure(answers, answers, rows("pump", None), manifest)


SPEECH = manifest_with(Transcript(output="y", tokens=("_", "A"), blank="_", delimiter="|"))


def test_measure_words_of_speech_is_an_error_rate():
    """4 words in two sounds, of which fp32 misses one and int8 two: a rise of a quarter, with its interval."""
    before, after = ([{"text": text} for text in texts] for texts in (("The pump", "has"), ("the", "has")))
    found = accuracy.measure(before, after, rows("the PUMP", "has stopped"), SPEECH)
    assert (found.metric, found.rows, found.is_fraction) == ("word error rate", 2, False)
    assert (found.fp32, found.int8, found.drop) == (0.25, 0.5, 0.25)
    half = 1.959964 * np.sqrt(4 / 3 * 1.25) / 8  # four sounds of two words lose 1, 0, 0.5 and -0.5
    assert found.ci95 == pytest.approx((0.125 - half, 0.125 + half), abs=1e-6)
    same = accuracy.measure(before, before, rows("the pump", "has stopped"), SPEECH)
    assert same.drop == 0
    assert same.ci95[0] < -0.1 < 0.1 < same.ci95[1]  # two sounds can't rule out much
    assert found.summary.startswith("0.2500 -> 0.5000, rise +25.00%")
    with pytest.raises(GateFailed, match=r"word error rate rises by 25\.00%"):
        accuracy.check_drop(found, 0.2)


@pytest.mark.parametrize(
    ("labels", "problem"), [(("a",), "1 sound"), (("", " "), "0 word"), (("a", 3), "label 3 is not a text")]
)
def test_measure_speech_needs_texts(labels, problem):
    """Two at least, with words."""
    answers = [{"text": "a"}] * len(labels)
    with pytest.raises(UsageError, match=problem):
        accuracy.measure(answers, answers, rows(*labels), SPEECH)


LANGUAGE = manifest_with(Generation(output="y", stop_ids=(), past=(), present=()))


def likelihoods(*pairs: tuple[float, int]) -> list[dict[str, float]]:
    """Of texts, by their log likelihoods and tokens."""
    return [{"log_likelihood": total, "tokens": tokens} for total, tokens in pairs]


def test_measure_perplexity_is_over_all_tokens():
    """20 tokens at a chance of 1/8 each, then 1/10: from 8 to 10 is a rise of a quarter, in both texts alike."""
    before, after = (likelihoods(*((-n * np.log(one), n) for n in (4, 16))) for one in (8, 10))
    found = accuracy.measure(before, after, rows(None, None), LANGUAGE)
    assert (found.metric, found.rows, found.is_fraction) == ("perplexity", 2, False)
    assert (found.fp32, found.int8, found.drop) == (pytest.approx(8), pytest.approx(10), pytest.approx(0.25))
    assert found.ci95 == pytest.approx((0.25, 0.25))
    assert found.summary == "8.00 -> 10.00, rise +25.00% (95 %: +25.00% to +25.00%), 2 rows"
    with pytest.raises(GateFailed, match=r"perplexity rises by 25\.00%, from 8\.00 to 10\.00"):
        accuracy.check_drop(found, 0.2)
    accuracy.check_drop(found, 0.26)


def test_measure_perplexity_interval_is_that_of_a_ratio():
    """Worked by hand: texts of 10 tokens lose 0, 0.1, 0.2, 0.3: mean 0.015 a token, deviation of a text 0.1291."""
    before, after = likelihoods(*[(-20, 10)] * 4), likelihoods((-20, 10), (-20.1, 10), (-20.2, 10), (-20.3, 10))
    low, high = accuracy.measure(before, after, rows(*[None] * 4), LANGUAGE).ci95
    half = 1.959964 * np.sqrt(4 * 0.05 / 3) / 40
    assert (low, high) == (
        pytest.approx(np.expm1(0.015 - half), abs=1e-6),
        pytest.approx(np.expm1(0.015 + half), abs=1e-6),
    )
    assert "4 rows can't rule out a rise of up to" in (
        accuracy.doubt(accuracy.measure(before, after, rows(*[None] * 4), LANGUAGE), 0.016) or ""
    )


@pytest.mark.parametrize("likelihood", [float("nan"), -1e5])
def test_check_drop_refuses_a_candidate_that_is_broken_on_one_text(likelihood):
    """Logits that are no numbers, or as far from the text's tokens as no float can say: it fails, as any other."""
    before, after = likelihoods((-20, 10), (-20, 10)), likelihoods((-20, 10), (likelihood, 10))
    found = accuracy.measure(before, after, rows(None, None), LANGUAGE)
    with pytest.raises(GateFailed, match=r"perplexity rises by .*, from 7\.39 to "):
        accuracy.check_drop(found, 0.01)


def test_measure_perplexity_of_one_text_is_refused():
    """It is asked for more."""
    one = likelihoods((-3.0, 2))
    with pytest.raises(UsageError) as caught:
        accuracy.measure(one, one, rows(None), LANGUAGE)
    assert caught.value.code == "data-invalid"


def test_measure_embeddings_of_many_rows_equals_one_comparison_of_all():
    """600 random vectors, compared in several parts; the expected share comes from one matrix of all."""
    random = np.random.default_rng(5)
    vectors, labels = random.normal(size=(600, 8)), random.integers(0, 3, 600)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T - 9 * np.eye(600)
    expected = float((labels[likeness.argmax(axis=1)] == labels).mean())
    answers = [{"embedding": it.tolist()} for it in vectors]
    manifest = manifest_with(Embedding(output="y", pooling="mean", normalize=True))
    found = accuracy.measure(answers, answers, rows(*map(int, labels)), manifest)
    assert found.fp32 == pytest.approx(expected, abs=1e-6)
