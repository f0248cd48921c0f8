"""From outputs to answers, on numbers that can be checked by hand."""

import math

import numpy as np
import pytest

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.processing import Classes, Embedding, Span, TensorOutput, TokenClasses
from edgeml_runtime import tasks
from edgeml_runtime.postprocess import classification, embeddings, question_answering
from edgeml_runtime.tasks import Row, Tokens

CLASSES = Classes(output="y", labels=("a", "b", "c"), activation="softmax")
TOKENS = Tokens(
    texts=("[CLS]", "new", "york", "[SEP]"),
    spans=((0, 0), (0, 3), (4, 8), (0, 0)),
    special=(True, False, False, True),
)


def row(values, tokens=None):
    return Row(outputs={"y": np.asarray(values, dtype=np.float32)}, about=tokens)


def scores(values, activation):
    spec = Classes(output="y", labels=("a", "b", "c"), activation=activation)
    return {entry["label"]: entry["score"] for entry in classification.classes(row(values), spec)["labels"]}


def test_classes_highest_score_first():
    """The labels are in order of their scores, which add up to one."""
    found = classification.classes(row([1.0, 3.0, 2.0]), CLASSES)["labels"]
    assert [entry["label"] for entry in found] == ["b", "c", "a"]
    assert sum(entry["score"] for entry in found) == pytest.approx(1.0)
    assert found[0]["score"] == pytest.approx(math.exp(3) / (math.exp(1) + math.exp(2) + math.exp(3)))


def test_classes_sigmoid_scores_are_independent():
    """With sigmoid each label has a probability of its own."""
    found = scores([0.0, math.log(3), -math.log(3)], "sigmoid")
    assert found == pytest.approx({"a": 0.5, "b": 0.75, "c": 0.25})


def test_classes_without_activation_are_the_outputs():
    """With no activation the outputs are the scores."""
    assert scores([0.5, 0.25, 0.125], "none") == {"a": 0.5, "b": 0.25, "c": 0.125}


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.filterwarnings("error")
def test_classes_extreme_logits_do_not_overflow(activation):
    """Extreme logits give zeros and ones without a warning."""
    found = scores([1e4, -1e4, -1e4], activation)
    assert found == {"a": 1.0, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0, 2.0, 3.0]]])
def test_classes_other_number_of_scores_raises(values):
    """A model that gives another number of scores than there are labels is a malformed bundle."""
    with pytest.raises(RejectedError, match="3 labels"):
        classification.classes(row(values), CLASSES)


def test_token_classes_leave_out_special_tokens():
    """Each token that stands for text has its surest label and its place; padding behind is left out."""
    spec = TokenClasses(output="y", labels=("O", "PLACE"))
    logits = [[9.0, 0.0], [0.0, 2.0], [1.0, 3.0], [9.0, 0.0], [9.0, 0.0]]
    found = classification.token_classes(row(logits, TOKENS), spec)["tokens"]
    assert [(t["token"], t["start"], t["end"], t["label"]) for t in found] == [
        ("new", 0, 3, "PLACE"),
        ("york", 4, 8, "PLACE"),
    ]
    assert found[0]["score"] == pytest.approx(1 / (1 + math.exp(-2)))


PAIR = Tokens(
    texts=("[CLS]", "who", "[SEP]", "old", "Mc", "Donald", "[SEP]"),
    spans=((0, 0), (0, 3), (0, 0), (0, 3), (4, 6), (6, 12), (0, 0)),
    special=(True, False, True, False, False, False, True),
    context="old McDonald",
    words=(None, None, None, (0, 3), (4, 12), (4, 12), None),
)


def answer(start, end, tokens=PAIR, max_tokens=3):
    outputs = {name: np.asarray(values, dtype=np.float32) for name, values in (("s", start), ("e", end))}
    return question_answering.span(Row(outputs=outputs, about=tokens), Span(start="s", end="e", max_tokens=max_tokens))


def test_span_is_in_whole_words():
    """Half of a word is likeliest; the whole one is the answer, with the chances of all its parts together."""
    found = answer([0, 9, 9, 0, 0, 5, 9], [0, 9, 9, 0, 0, 5, 9])
    assert (found["answer"], found["start"], found["end"]) == ("McDonald", 4, 12)
    start = np.exp([0, 0, 0, 5]) / np.exp([0, 0, 0, 5]).sum()  # [CLS] and the context's three
    assert found["score"] == pytest.approx(start[2] * start[2] + start[2] * start[3] + start[3] * start[3], rel=1e-5)


def test_span_is_no_longer_than_allowed():
    """The likeliest beginning and end are too far apart."""
    assert answer([0, 0, 0, 9, 0, 0, 0], [0, 0, 0, 0, 1, 9, 0])["answer"] == "old McDonald"
    assert answer([0, 0, 0, 9, 0, 0, 0], [0, 0, 0, 0, 1, 9, 0], max_tokens=1)["answer"] == "McDonald"


def test_span_never_ends_before_it_begins():
    """Nor does padding behind the tokens take part."""
    found = answer([0, 0, 0, 0, 0, 4, 0, 99], [0, 0, 0, 9, 1, 0, 0, 99])
    assert found["answer"] == "old"


@pytest.mark.parametrize(
    ("pooling", "normalize", "expected"),
    [
        ("mean", False, [3.0, 4.0]),
        ("mean", True, [0.6, 0.8]),
        ("cls", False, [0.0, 0.0]),
        ("none", False, [[0, 0], [2, 4], [4, 4], [6, 8]]),
    ],
)
def test_embedding_pools_tokens_without_padding(pooling, normalize, expected):
    """Padding has no part in the vector."""
    vectors = [[0, 0], [2, 4], [4, 4], [6, 8], [1000, 1000]]
    spec = Embedding(output="y", pooling=pooling, normalize=normalize)
    found = embeddings.embedding(row(vectors, TOKENS), spec)["embedding"]
    assert np.allclose(found, expected)


def test_embedding_of_a_pooled_vector_is_only_scaled():
    """A model that pools by itself gives one vector, which is only scaled; a zero vector stays zero."""
    spec = Embedding(output="y", pooling="none", normalize=True)
    assert embeddings.embedding(row([3.0, 4.0], TOKENS), spec)["embedding"] == pytest.approx([0.6, 0.8])
    assert embeddings.embedding(row([0.0, 0.0], TOKENS), spec)["embedding"] == [0.0, 0.0]


def test_rows_split_a_run():
    """Each item gets its own row of the output that matters, and its tokens."""
    outputs = {"y": np.arange(6).reshape(2, 3), "other": np.zeros(5)}
    first, second = tasks.rows(outputs, [None, TOKENS], CLASSES)
    assert first.outputs["y"].tolist() == [0, 1, 2]
    assert second.outputs["y"].tolist() == [3, 4, 5]
    assert second.tokens == TOKENS


def test_rows_without_names_take_all_outputs():
    """With no output named, each item's answer has its row of every output."""
    (first, _) = tasks.rows({"y": np.arange(6).reshape(2, 3), "z": np.arange(2)}, [None, None], TensorOutput())
    assert tasks.tensors(first, TensorOutput()) == {"outputs": {"y": [0, 1, 2], "z": 0}}


def test_rows_nan_is_runtime_failed():
    """Neither a label nor a null score, but this machine's failure; raw outputs are given as they are."""
    outputs = {"y": np.array([[1.0, math.nan, 3.0]], np.float32)}
    with pytest.raises(DeviceError) as caught:
        tasks.rows(outputs, [None], CLASSES)
    assert caught.value.code == "runtime-failed"
    assert len(tasks.rows(outputs, [None], TensorOutput())) == 1
    assert len(tasks.rows({"y": np.array([[-math.inf, 0.0, 1.0]], np.float32)}, [None], CLASSES)) == 1


def test_rows_other_number_of_rows_raises():
    """Two rows for one item have no one answer."""
    with pytest.raises(UsageError, match="1 item"):
        tasks.rows({"y": np.zeros((2, 3))}, [None], CLASSES)
