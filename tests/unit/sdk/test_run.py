"""`edgeml run`: fields, files and rows as people have them; answers are those of single requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy.io import wavfile
from tests.unit.core.test_manifest import DECODED

from edgeml.cli.main import edgeml
from edgeml_core.errors import UsageError
from edgeml_runtime import requests
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Audio, Item
from support import task_models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny bundles, a red picture, a loud sound of 44.1 kHz, and rows that name them."""
    for name, task in (
        ("mood", "text-classification"),
        ("colors", "image-classification"),
        ("noise", "audio-classification"),
        ("answers", "question-answering"),
        ("gaps", "fill-mask"),
        ("ears", "automatic-speech-recognition"),
        ("line", "tensors"),
    ):
        task_models.bundle(tmp_path / f"{name}.edgeml", task)
    Image.new("RGB", (900, 700), (250, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (30, 3000), (5, 10, 250)).save(tmp_path / "blue.jpg")
    tone = np.sign(np.sin(np.arange(44_100) * 2 * np.pi * 440 / 44_100)) * 0.9
    wavfile.write(tmp_path / "loud.wav", 44_100, tone.astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(edgeml, ["run", *arguments], input=stdin, catch_exceptions=True)
    if isinstance(result.exception, UsageError):
        raise result.exception
    assert result.exit_code == 0, result.exception
    return result


def best(line: str) -> str:
    return json.loads(line)["labels"][0]["label"]


def test_fields_make_one_request(folder: Path):
    """Texts as they are, pictures and sounds by their path; a sound is resampled."""
    assert best(run("mood.edgeml", "--input", "text=it works well").stdout) == "positive"
    assert best(run("colors.edgeml", "--input", "image=red.png").stdout) == "red"
    assert best(run("noise.edgeml", "--input", "audio=loud.wav").stdout) == "loud"
    found = run("answers.edgeml", "--input", "question=where is the cow", "--input", "context=the cow is in a field")
    assert "answer" in json.loads(found.stdout)


def test_mask_is_filled_with_as_many_tokens_as_requested(folder: Path):
    """A field of a number is JSON."""
    found = run("gaps.edgeml", "--input", "text=the new [MASK]", "--input", "top_k=1")
    assert [it["sequence"] for it in json.loads(found.stdout)["fills"]] == ["the new filter"]


def test_sound_file_of_another_rate_is_written_down(folder: Path):
    """It is resampled on the host."""
    assert json.loads(run("ears.edgeml", "--input", "audio=loud.wav").stdout) == {"text": "loud"}


def test_language_stands_beside_the_path_of_a_sound(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A decoder of speech takes it, and a model of another kind refuses it by its name."""
    request = ("--input", "audio=loud.wav", "--input", "language=de")
    with pytest.raises(UsageError, match="unknown field `language`"):
        run("ears.edgeml", *request)
    said = list[Item]()

    def predict(_: Model, items: Sequence[Item]) -> list[dict[str, str]]:
        said.extend(items)
        return [{"text": "laut"}]

    def parse(model: Model, request: object) -> list[Item]:
        return requests.parse(request, msgspec.structs.replace(model.manifest, postprocess=DECODED))

    monkeypatch.setattr(Model, "predict", predict)
    monkeypatch.setattr(Model, "parse", parse)
    assert json.loads(run("ears.edgeml", *request).stdout) == {"text": "laut"}
    assert [it.language for it in said if isinstance(it, Audio)] == ["de"]


def test_json_takes_paths_and_base64(folder: Path):
    """A list of both gives the answers in order."""
    packed = base64.b64encode((folder / "red.png").read_bytes()).decode()
    found = run("colors.edgeml", "--json", "--input", json.dumps([{"image": "blue.jpg"}, {"image": packed}]))
    assert [it["labels"][0]["label"] for it in json.loads(found.stdout)["outputs"]] == ["blue", "red"]


def test_rows_of_a_file_are_answered_in_lines(folder: Path):
    """The file of --evaluate as it is, in another folder: its label is ignored with a note, its paths are its own."""
    (folder / "rows").mkdir()
    (folder / "red.png").rename(folder / "rows" / "a.png")
    (folder / "rows" / "test.csv").write_text("image,label\na.png,blue\n")
    found = run("colors.edgeml", "--json", "--input", "@rows/test.csv")
    assert [best(line) for line in found.stdout.splitlines()] == ["red"]
    assert found.stderr == "ignored, since the model doesn't take it: label\n"


def test_rows_on_stdin_are_more_than_a_request_may_have(folder: Path):
    """JSON lines; each answer is that of the row alone."""
    rows = "".join(json.dumps({"text": text, "label": 1}) + "\n" for text in ("it works well", "bad") * 300)
    lines = run("mood.edgeml", "--json", "--input", "-", stdin=rows).stdout.splitlines()
    alone = [json.loads(run("mood.edgeml", "--input", f"text={text}").stdout) for text in ("it works well", "bad")]
    assert [json.loads(line) for line in lines] == alone * 300


def test_columns_of_numbers_are_tensors(folder: Path):
    """CSV with a header for a model of one table."""
    expected = run("line.edgeml", "--input", '{"inputs": {"x": [[1, 2, 3, 4]]}}').stdout
    (folder / "t.csv").write_text("a,b,c,d\n1,2,3,4\n")
    assert run("line.edgeml", "--input", "@t.csv").stdout == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("colors.edgeml", "--input", "image=cat.png"), "'cat.png' is neither a file nor one in base64"),
        (("mood.edgeml", "--input", "hello"), "--input is not JSON"),
        (("mood.edgeml", "--input", "text=a", "--input", "{}"), "only FIELD=VALUE can be given several times"),
        (("mood.edgeml", "--input", "@none.jsonl"), "none.jsonl can't be read"),
        (("mood.edgeml", "--input", "words=a"), "words=a is not JSON"),
    ],
)
def test_other_inputs_are_refused(folder: Path, arguments: tuple[str, ...], message: str):
    """With what is wrong, and no traceback."""
    with pytest.raises(UsageError) as caught:
        run(*arguments)
    assert message in caught.value.message
    assert caught.value.hint


def test_row_that_is_wrong_is_named(folder: Path):
    """The rows before it are answered."""
    (folder / "rows.jsonl").write_text('{"text": "bad"}\n{"label": "bad"}\n')
    with pytest.raises(UsageError, match=r"rows.jsonl, line 2: .*text"):
        run("mood.edgeml", "--input", "@rows.jsonl")


def test_second_texts_of_rows_reach_a_classifier(folder: Path):
    """They are never left out with a note: an answer without them would be another one."""
    texts = {"text": "it works well", "text_pair": "bad"}
    expected = run("mood.edgeml", "--input", json.dumps(texts)).stdout
    assert expected != run("mood.edgeml", "--input", "text=it works well").stdout
    (folder / "pairs.jsonl").write_text(json.dumps({**texts, "label": 1, "id": 7}) + "\n")
    found = run("mood.edgeml", "--input", "@pairs.jsonl")
    assert found.stdout == expected
    assert found.stderr == "ignored, since the model doesn't take it: id, label\n"
    fields = ("--input", "text=it works well", "--input", "text_pair=bad")
    assert run("mood.edgeml", *fields).stdout == expected


def test_field_of_another_kind_of_model_is_refused_in_rows(folder: Path):
    """A question for a model of texts isn't answered without it."""
    (folder / "rows.jsonl").write_text('{"text": "bad", "question": "why?"}\n')
    with pytest.raises(UsageError, match=r"line 1: .*question"):
        run("mood.edgeml", "--input", "@rows.jsonl")


def test_rows_on_stdin_name_files_of_the_current_folder(folder: Path):
    """CSV from a pipe; a wrong row is named with its line."""
    found = run("colors.edgeml", "--input", "-", stdin="image\nred.png\nblue.jpg\n")
    assert [best(line) for line in found.stdout.splitlines()] == ["red", "blue"]
    with pytest.raises(UsageError, match=r"stdin, line 2: 'no.png' is neither a file"):
        run("colors.edgeml", "--input", "-", stdin="image\nno.png\n")
