"""Data files: read by the model's kind, refused with the lines that don't fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeml.check import data
from edgeml.exporters.source import Signature
from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import (
    AudioInput,
    Boxes,
    Classes,
    ImageInput,
    MaskFill,
    Preprocess,
    PromptInput,
    QuestionInput,
    TensorInput,
    TensorOutput,
    TextInput,
)
from edgeml_runtime.tasks import Audio, Image, Question, ScoredText, Tensors, Text
from support.sounds import tone, wav

SPEC = TensorSpec(name="x", dtype="float32", shape=(-1, 2))
IMAGE = ImageInput(
    height=2, width=2, channels=1, layout="NCHW", resample="nearest", rescale=1.0, mean=(0.0,), std=(1.0,)
)


def signature(preprocess: Preprocess) -> Signature:
    return Signature(inputs=(SPEC,), outputs=(SPEC,), preprocess=preprocess, postprocess=TensorOutput())


TEXT = signature(TextInput(tokenizer="tokenizer.json", max_length=8))


def file_of(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_read_texts_images_and_tensors_gives_items(tmp_path: Path):
    """Each kind of model takes its own kind of row; images are named relative to the file."""
    (tmp_path / "one.png").write_bytes(b"picture")
    texts = data.read(file_of(tmp_path, {"text": "hello", "label": "greeting"}), TEXT)
    assert texts.rows == (data.Row(item=Text("hello"), label="greeting"),)
    images = data.read(file_of(tmp_path, {"image": "one.png", "label": 3}), signature(IMAGE))
    assert images.rows == (data.Row(item=Image(b"picture"), label=3),)
    tensors = data.read(file_of(tmp_path, {"inputs": {"x": [[1, 2]]}}), signature(TensorInput()))
    assert isinstance(tensors.items[0], Tensors)
    np.testing.assert_array_equal(tensors.items[0].inputs["x"], np.array([[1, 2]], dtype=np.float32))


def test_read_pictures_of_a_detector_gives_boxes(tmp_path: Path):
    """All of its boxes will be wanted, down to a threshold of 0; a picture may have none."""
    (tmp_path / "one.png").write_bytes(b"picture")
    boxes = [{"label": "cow", "box": [1, 2, 30.5, 40]}]
    detector = replace(signature(IMAGE), postprocess=Boxes(logits="l", boxes="b", labels=("cow",)))
    lines = file_of(tmp_path, {"image": "one.png", "boxes": boxes}, {"image": "one.png", "boxes": []})
    asked = Image(b"picture", 0.0)
    assert data.read(lines, detector).rows == (
        data.Row(item=asked, label=(data.LabelledBox(label="cow", box=(1, 2, 30.5, 40)),)),
        data.Row(item=asked, label=()),
    )
    with pytest.raises(UsageError, match="line 1"):
        data.read(file_of(tmp_path, {"image": "one.png", "boxes": [{"label": "cow", "box": [1, 2]}]}), detector)


def test_read_texts_with_a_mask_have_one(tmp_path: Path):
    """Rows without are named before any model runs."""
    fills = replace(TEXT, postprocess=MaskFill(output="y", mask="[MASK]"))
    found = data.read(file_of(tmp_path, {"text": "the [MASK]", "label": "pump"}), fills)
    assert found.rows == (data.Row(item=Text("the [MASK]"), label="pump"),)
    with pytest.raises(UsageError, match=r"line 1: the text has 0 masks \[MASK\]; 1 is needed; line 2: the text has 2"):
        data.read(file_of(tmp_path, {"text": "the pump"}, {"text": "[MASK] [MASK]"}), fills)


def test_read_questions_texts_and_sounds_gives_items(tmp_path: Path):
    """A sound is named relative to the file, and its samples are part of the digest."""
    question = QuestionInput(tokenizer="tokenizer.json", max_length=8)
    asked = data.read(file_of(tmp_path, {"question": "Who?", "context": "I.", "label": "I"}), signature(question))
    assert asked.rows == (data.Row(item=Question("Who?", "I."), label="I"),)
    passages = data.read(file_of(tmp_path, {"text": "Once"}), signature(PromptInput(tokenizer="t", max_length=8)))
    assert passages.items == [ScoredText("Once")]
    digests = set()
    for seconds in (0.1, 0.2):
        (tmp_path / "one.wav").write_bytes(wav(tone(seconds)))
        sounds = data.read(
            file_of(tmp_path, {"audio": "one.wav", "label": "hum"}),
            signature(AudioInput(sampling_rate_hz=16_000, min_samples=1, max_samples=9)),
        )
        (sound,) = sounds.items
        assert isinstance(sound, Audio)
        assert sound.samples.size == int(seconds * 16_000)
        digests.add(sounds.sha256)
    assert len(digests) == 2


def test_read_row_without_a_field_names_it(tmp_path: Path):
    """Half a question is none."""
    question = QuestionInput(tokenizer="tokenizer.json", max_length=8)
    with pytest.raises(UsageError, match="no question and no context"):
        data.read(file_of(tmp_path, {"question": "Who?"}), signature(question))


def test_read_no_file_gives_no_rows():
    """An option not given."""
    assert data.read(None, TEXT) == data.Rows()


def test_read_bad_lines_names_them(tmp_path: Path):
    """A missing text and a malformed line come out together."""
    path = file_of(tmp_path, {"label": 1}, {"text": "fine"})
    path.write_text(path.read_text() + "\n{")
    with pytest.raises(UsageError, match=r"2 problem\(s\) in 3 row\(s\): line 1: .*; line 3: ") as caught:
        data.read(path, TEXT)
    assert caught.value.code == "data-invalid"


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_read_empty_file_is_refused(tmp_path: Path, content: str):
    """Nothing can be measured on no rows."""
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UsageError, match="0 rows"):
        data.read(tmp_path / "rows.jsonl", TEXT)


def test_read_missing_file_or_picture_is_refused(tmp_path: Path):
    """Both with the data file's code."""
    for path, kind in ((tmp_path / "none.jsonl", TEXT), (file_of(tmp_path, {"image": "no.png"}), signature(IMAGE))):
        with pytest.raises(UsageError) as caught:
            data.read(path, kind)
        assert caught.value.code == "data-invalid"


def test_read_digest_covers_the_pictures(tmp_path: Path):
    """The same lines over other pictures are other data."""
    path = file_of(tmp_path, {"image": "one.png"})
    digests = set()
    for content in (b"one", b"other"):
        (tmp_path / "one.png").write_bytes(content)
        digests.add(data.read(path, signature(IMAGE)).sha256)
    assert len(digests) == 2


def test_read_many_lines_with_one_problem_names_it_once(tmp_path: Path):
    """Three places, and the number of the others."""
    path = file_of(tmp_path, *({"label": "cow"} for _ in range(500)))
    with pytest.raises(UsageError) as caught:
        data.read(path, TEXT)
    assert caught.value.message.endswith("500 problem(s) in 500 row(s): line 1, line 2, line 3 and 497 more: no text")


def test_read_draws_rows_of_a_longer_file(tmp_path: Path):
    """The same ones each time, none twice, from all of the file; the card's note has both numbers."""
    path = file_of(tmp_path, *({"text": str(at)} for at in range(500)))
    drawn = data.read(path, TEXT, most=50)
    numbers = [int(row.item.text) for row in drawn.rows if isinstance(row.item, Text)]
    assert len(set(numbers)) == 50
    assert max(numbers) > 400
    assert min(numbers) < 100
    assert data.read(path, TEXT, most=50) == drawn
    assert drawn.note.startswith("accuracy of 50 rows of 500, drawn at random")
    assert data.read(path, TEXT, most=500) == data.read(path, TEXT)
    assert data.read(path, TEXT).note == ""


def test_read_more_rows_than_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the number, the bound and the way."""
    monkeypatch.setattr(data, "ROWS_MAX", 2)
    with pytest.raises(UsageError, match="has 3 rows; 2 at most are read") as caught:
        data.read(file_of(tmp_path, *({"text": "a"} for _ in range(3))), TEXT)
    assert caught.value.hint.startswith("take a random sample")


def test_read_csv_label_is_a_name_before_an_index(tmp_path: Path):
    """Stars from 1 to 3: `1` is the label of that name, not the second one; `0` is no name, so it is an index."""
    stars = replace(TEXT, postprocess=Classes(output="y", labels=("1", "2", "3"), activation="softmax"))
    (tmp_path / "rows.csv").write_text("text,label\ngood,1\nfine,0\nbad,RED\n")
    assert [row.label for row in data.read(tmp_path / "rows.csv", stars).rows] == ["1", 0, "RED"]


def test_read_csv_of_numbers_fills_the_only_input(tmp_path: Path):
    """All columns but `label`, in their order; the label is the index of the largest output."""
    (tmp_path / "rows.csv").write_text("age;label;kg\n3;1;40.5\n5;0;61\n")
    rows = data.read(tmp_path / "rows.csv", signature(TensorInput()))
    assert [item.inputs["x"].tolist() for item in rows.items] == [[[3, 40.5]], [[5, 61]]]
    assert [row.label for row in rows.rows] == [1, 0]
