"""Labels of evaluation rows: known by name or index, refused before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeml.check import expected_labels, feasible
from edgeml.check.data import LabelledBox
from edgeml_core.errors import UsageError
from edgeml_core.processing import Boxes, Classes, Embedding, TokenClasses

COLORS = ("red", "green")
CLASSES = Classes(output="y", labels=COLORS, activation="softmax")


@pytest.mark.parametrize(("label", "name"), [("red", "red"), (1, "green")])
def test_find_takes_names_and_indexes(label: object, name: str):
    """A number is the place among the labels."""
    assert expected_labels.find(label, COLORS) == name


@pytest.mark.parametrize("label", ["RED", "0", 2, -1, True, None, 0.5])
def test_find_refuses_other_labels(label: object):
    """With those that the model has."""
    with pytest.raises(UsageError, match="is not one of the model's") as caught:
        expected_labels.find(label, COLORS)
    assert caught.value.hint == "use one of red, green"


def test_check_counts_the_rows_of_each_unknown_label():
    """The most frequent first; a row without a label is named, too."""
    with pytest.raises(UsageError) as caught:
        expected_labels.check(["red", "RED", 1, "RED", None], CLASSES)
    expected = (
        "the model doesn't have the labels of the rows to evaluate on: 'RED' in 2 of 5 rows, no label in 1 of 5 rows"
    )
    assert caught.value.message == expected


def test_check_looks_into_lists_and_boxes():
    """Labels of words, and of objects in a picture."""
    words = TokenClasses(output="y", labels=("O", "B-LOC"))
    expected_labels.check([["O", "B-LOC"], []], words)
    with pytest.raises(UsageError, match="'I-LOC' in 1 of 1 rows"):
        expected_labels.check([["O", "I-LOC", "I-LOC"]], words)
    boxes = Boxes(logits="l", boxes="b", labels=("cow",))
    with pytest.raises(UsageError, match="'calf' in 1 of 2 rows"):
        expected_labels.check([(LabelledBox(label="calf", box=(0, 0, 1, 1)),), ()], boxes)


def test_check_leaves_embeddings_alone():
    """Their labels only say which rows belong together."""
    expected_labels.check(["anything", 7], Embedding(output="y", pooling="mean", normalize=True))


def test_check_folder_reads_the_configuration_alone(tmp_path: Path):
    """Labels come in the order of their numbers, of which the tenth is after the second."""
    names = {str(index): f"class {index}" for index in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)}
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na,10\nb,class 2\n")
    config = {"architectures": ["BertForSequenceClassification"], "id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected_labels.check_folder(tmp_path, rows)
    rows.write_text("text,label\na,11\n")
    with pytest.raises(UsageError, match="11 in 1 of 1 rows"):
        expected_labels.check_folder(tmp_path, rows)
    for other in ({**config, "architectures": ["BertModel"]}, {"id2label": 3}, {}):
        (tmp_path / "config.json").write_text(json.dumps(other))
        expected_labels.check_folder(tmp_path, rows)
    expected_labels.check_folder(tmp_path / "none", rows)


@pytest.mark.timeout(30)
def test_pipe_in_place_of_a_configuration_is_left_to_the_loader(tmp_path: Path):
    """Nobody writes to it, so that reading it would never end."""
    os.mkfifo(tmp_path / "config.json")
    expected_labels.check_folder(tmp_path, tmp_path / "rows.jsonl")
    assert feasible.parameters(tmp_path) is None
