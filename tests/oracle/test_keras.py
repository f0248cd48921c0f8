"""Files of Keras, judged by `keras.Model.predict`; docs/keras.md has the table."""

from __future__ import annotations

import os
import re
import zipfile
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeml import targets
from edgeml.check import against_oracle
from edgeml.check.candidate import opened
from edgeml.exporters import fp32, keras_file
from edgeml.oracle.protocol import LibraryAnswer
from edgeml.pipeline import pack
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.card import Oracle
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.manifest import Format
from oracle.keras_rows import REFUSED, ROWS, keras
from support import cache

PAGE = cache.ROOT / "docs/keras.md"
#: Each takes 2 to 5 s of CPU time, in TFLite about 10 s.
BY_DAY = ("CNN with rescaling and dropout", "two inputs, two named outputs", "embedding and attention")
#: The most that is added to each weight, so that none is 0.
SPREAD = 0.1
IN_TFLITE = (
    "MLP with batch normalization",
    "CNN with rescaling and dropout",
    "separable and depthwise convolutions",
    "bidirectional GRU",
    "two inputs, two named outputs",
)


def _saved(name: str, folder: Path) -> Path:
    """Save a row's model; weights that begin as one number, such as 0, would hide a mistake with them."""
    keras.utils.set_random_seed(0)
    model = ROWS[name]()
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign_add(keras.random.uniform(weight.shape, 0.0, SPREAD))
    model.save(folder / "model.keras")
    return folder / "model.keras"


def _judged(path: Path, file_format: Format, *, changed: float = 0.0) -> Oracle:
    """Compare the fp32 form with Keras' answers, to the first number of which `changed` is added."""
    source = keras_file.load(path, None)
    (path.parent / "work" / "fp32").mkdir(parents=True)
    built = fp32.write(source, file_format, path.parent / "work" / "fp32")
    release = pack.Release(name="judged", version="1.0")
    build = pack.Build(model=built, source=source, profile=targets.load("x86-vnni"), release=release)
    reply = source.judge.reply(source.judge.items)
    answers = [_changed(it, changed) for it in reply.answers]
    with opened(built, build.manifest()) as model:
        return against_oracle.check(model, source.judge.items, answers, reply.library)


def _changed(answer: LibraryAnswer, by: float) -> LibraryAnswer:
    outputs = {name: (np.asarray(values) + by).tolist() for name, values in answer.answer["outputs"].items()}
    return msgspec.structs.replace(answer, answer={"outputs": outputs})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in BY_DAY else [pytest.mark.nightly]) for name in ROWS]
)
def test_model_answers_as_keras_predicts(name: str, tmp_path: Path):
    """On rows of several scales, zeros and large numbers, each alone and all in a list."""
    found = _judged(_saved(name, tmp_path), "onnx")
    assert found.library == f"keras {metadata.version('keras')}"
    assert found.items == len(keras_file.SPREADS) + 2


@pytest.mark.nightly
@pytest.mark.parametrize("name", IN_TFLITE)
def test_model_answers_as_keras_predicts_in_tflite(name: str, tmp_path: Path):
    """By the same rows."""
    assert _judged(_saved(name, tmp_path), "tflite").items == len(keras_file.SPREADS) + 2


def test_answer_unlike_that_of_keras_is_caught(tmp_path: Path):
    """By a hundredth."""
    with pytest.raises(GateFailed, match=r"not the original's: a row .+ by keras"):
        _judged(_saved("two inputs, two named outputs", tmp_path), "onnx", changed=0.01)


@pytest.mark.parametrize("name", REFUSED)
def test_model_with_code_or_state_is_refused(name: str, tmp_path: Path):
    """Before Keras reads the file, where it has code."""
    make, code, message = REFUSED[name]
    make().save(tmp_path / "model.keras")
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        keras_file.load(tmp_path / "model.keras", None)
    assert caught.value.code == code


def test_file_that_is_no_archive_is_refused(tmp_path: Path):
    """With the way by Keras 3."""
    (tmp_path / "model.keras").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(UsageError, match=r"is no \.keras file of Keras 3") as caught:
        keras_file.load(tmp_path / "model.keras", None)
    assert "save('model.keras')" in caught.value.hint


def test_file_without_weights_is_refused(tmp_path: Path):
    """Keras says what it lacks."""
    path = _saved("normalization", tmp_path)
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(tmp_path / "part.keras", "w") as part:
        for name in ("config.json", "metadata.json"):
            part.writestr(name, given.read(name))
    with pytest.raises(UsageError, match="Keras can't load") as caught:
        keras_file.load(tmp_path / "part.keras", None)
    assert caught.value.code == "model-unreadable"


def test_task_is_refused(tmp_path: Path):
    """No file beside it has labels."""
    with pytest.raises(UsageError, match=r"image-classification is not for \.keras files"):
        keras_file.load(_saved("normalization", tmp_path), "image-classification")


def test_export_ships_a_file_whose_card_names_keras(tmp_path: Path):
    """The whole way, with tensors in and out."""
    request = ExportRequest(
        model=str(_saved("normalization", tmp_path)),
        name="it",
        targets=("x86-vnni",),
        formats=("onnx",),
        quantize="none",
        output=tmp_path / "out",
    )
    (exported,) = export(request)
    assert exported.manifest.card.oracle.library == f"keras {metadata.version('keras')}"
    assert exported.manifest.task == "tensors"


def test_page_lists_the_models():
    """docs/keras.md; EDGEML_WRITE_DOCS=1 writes it."""
    if os.environ.get("EDGEML_WRITE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def page() -> str:
    """The models that ship, and those that are refused with a part of the reason."""
    shipped = "".join(f"| {name} | {'ONNX, TFLite' if name in IN_TFLITE else 'ONNX'} |\n" for name in ROWS)
    refused = "".join(f"| {name} | `{code}` | {message} |\n" for name, (_, code, message) in REFUSED.items())
    return (
        "<!-- Generated by tests/oracle/test_keras.py with EDGEML_WRITE_DOCS=1. -->\n\n# Keras\n\n"
        f"Tiny models of Keras {metadata.version('keras')} with random weights, saved as `.keras` files. What ships "
        "gives the answers of\n`keras.Model.predict` on Keras' torch backend, alone and in a list; TensorFlow isn't "
        "needed. `make nightly` runs each row,\n`make test` three.\n\n"
        "Inputs and outputs are tensors as they are: the client prepares pictures and names classes. Lengths are "
        "fixed, but for the\nbatch. The file holds Keras' own layers alone; files of Keras 2 (`.h5`) are saved again "
        "by Keras 3 first.\n\n"
        f"| model | tried in |\n|---|---|\n{shipped}\n"
        f"| refused | code | the message has |\n|---|---|---|\n{refused}"
    )
