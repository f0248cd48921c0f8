"""The sources that a model's name can stand for, and the refusals of the others."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from edgeml.exporters.load import load
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea42\nsize 90868376\n"


def refused(model: Path | str, work: Path) -> UsageError:
    """The refusal of a model."""
    request = ExportRequest(model=str(model), targets=("rpi4",), output=work / "out")
    with pytest.raises(UsageError) as caught:
        load(request, work)
    return caught.value


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "there is no file or folder"),
        ("absent.onnx", "there is no file or folder"),
        ("notes.txt/absent.pt2", "there is no file or folder"),
        ("a" * 5000, "File name too long"),
        ("nul\0byte", "null byte"),
        ("loop", "Too many levels of symbolic links"),
    ],
    ids=["folder", "file", "in a file", "long", "nul", "loop"],
)
def test_load_model_that_can_not_be_opened_is_unreadable(tmp_path: Path, name: str, reason: str):
    """With the system's reason where the name isn't simply absent, in a short line."""
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "loop").symlink_to("loop")
    error = refused(tmp_path / name, tmp_path)
    assert error.code == "model-unreadable"
    assert reason in error.message
    assert len(error.message) < 400
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("google-bert/bert-base-cased", "hf download google-bert/bert-base-cased --local-dir bert-base-cased"),
        ("https://huggingface.co/a/b.c", "hf download a/b.c --local-dir b.c"),
        ("bert-base-cased", "models are read from the disk, not from a hub"),
        ("train.py:my-function", "a name in Python"),
    ],
)
def test_load_model_that_is_absent_names_the_way_in(tmp_path: Path, monkeypatch, name: str, hint: str):
    """A hub's id is downloaded first."""
    monkeypatch.chdir(tmp_path)
    error = refused(name, tmp_path)
    assert error.message == f"there is no file or folder {name!r}"
    assert hint in error.hint


def test_load_misspelled_model_names_its_neighbour(tmp_path: Path):
    """As a shell's user expects."""
    (tmp_path / "minilm-l6").mkdir()
    assert refused(tmp_path / "minlm-l6", tmp_path).hint == f"did you mean {str(tmp_path / 'minilm-l6')!r}?"


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("model", "model-unreadable", "file.onnx"),
        ("notes.txt", "model-unreadable", "file.onnx"),
        ("model.bin", "model-unsafe", "path/file.py:function"),
        ("model.pth", "model-unsafe", "path/file.py:function"),
        ("model.PT", "model-unsafe", "path/file.py:function"),
        ("model.pkl", "model-unsafe", "returns (estimator, example rows)"),
        ("model.joblib", "model-unsafe", "returns (estimator, example rows)"),
        ("model.h5", "model-unreadable", "load_model(FILE).save('model.keras')"),
        ("model.tflite", "model-unreadable", "tf2onnx.convert --tflite"),
        ("model.safetensors", "model-unreadable", "name the folder with its config.json"),
        ("model.edgeml", "model-unreadable", "edgeml inspect"),
        ("train.py", "model-unreadable", "path/file.py:function"),
        ("model.tar.gz", "model-unreadable", "unpack it"),
    ],
)
def test_load_file_of_another_kind_names_its_way_in(tmp_path: Path, name: str, code: str, hint: str):
    """A pickle is refused as unsafe, and isn't opened."""
    (tmp_path / name).write_text("no model")
    error = refused(tmp_path / name, tmp_path)
    assert error.code == code
    assert hint in error.hint


def test_load_pipe_is_no_model(tmp_path: Path):
    """It would never end."""
    os.mkfifo(tmp_path / "model.onnx")
    assert "neither a file nor a folder" in refused(tmp_path / "model.onnx", tmp_path).message


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "folder/model.safetensors", "folder/tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "reason"), [(POINTER, "git-lfs pointer"), (b"", "is empty")], ids=["pointer", "empty"]
)
def test_load_file_that_was_not_downloaded_is_named(tmp_path: Path, name: str, content: bytes, reason: str):
    """Each of a folder's files, too."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name.partition("/")[0], tmp_path)
    assert error.code == "model-unreadable"
    assert reason in error.message
    assert name in error.message


def test_load_safetensors_cut_short_gives_both_sizes(tmp_path: Path):
    """As the library's own writer laid the file out."""
    (tmp_path / "config.json").write_text("{}")
    whole = safetensors.numpy.save({"a": np.zeros(100, np.float32)})
    (tmp_path / "model.safetensors").write_bytes(whole[:-7])
    assert f"it has {len(whole) - 7} of {len(whole)} bytes" in refused(tmp_path, tmp_path).message


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ({"checkpoint-500/config.json": "{}", "checkpoint-1500/config.json": "{}"}, "checkpoint-1500"),
        ({"snapshots/4f2a/config.json": "{}"}, "snapshots/4f2a"),
        ({"mine/config.json": "{}", "notes.txt": ""}, "mine"),
        ({"saved_model.pb": "", "variables/x.index": ""}, "tf2onnx.convert --saved-model"),
        ({"model_index.json": "{}"}, "path/file.py:function"),
        ({"a.onnx": "x"}, "a.onnx"),
        ({"pytorch_model.bin": "x"}, "path/file.py:function"),
        ({"modules.json": '[{"path": "0_Transformer"}]', "0_Transformer/config.json": "{}"}, "SentenceTransformer("),
        ({"modules.json": "[" * 100_000, "a.txt": ""}, "name a Hugging Face model's folder"),
        ({}, "name a Hugging Face model's folder"),
    ],
)
def test_load_folder_without_a_config_names_where_the_model_is(tmp_path: Path, files: dict[str, str], hint: str):
    """The newest checkpoint of a Trainer, a hub's snapshot, another library's file."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    error = refused(folder, tmp_path)
    assert error.code == "model-unreadable"
    assert hint in error.hint


@pytest.mark.parametrize(
    ("settings", "files", "code", "words"),
    [
        ({}, True, "model-unreadable", "lora is an adapter of google/gemma-2-2b, which is not on this disk"),
        ({"base_model_name_or_path": None}, True, "model-unreadable", "names no base model"),
        ({"megatron_config": {"a": 1}}, True, "model-unsafe", "names a module to import"),
        ({"peft_type": "PREFIX_TUNING"}, True, "model-unsupported", "the kind PREFIX_TUNING, which can't be merged"),
        ({}, False, "model-unsafe", "has its weights as a pickle"),
        ({"modules_to_save": 3}, True, "model-unreadable", "adapter_config.json can't be read"),
    ],
    ids=["no base", "no name", "code", "prefix", "pickle", "malformed"],
)
def test_load_adapter_of_peft_that_can_not_be_merged_is_refused(
    tmp_path: Path, settings: dict[str, object], files: bool, code: str, words: str
):
    """Before torch is loaded."""
    folder = tmp_path / "lora"
    folder.mkdir()
    whole = {"peft_type": "LORA", "base_model_name_or_path": "google/gemma-2-2b"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    (folder / ("adapter_model.safetensors" if files else "adapter_model.bin")).write_bytes(b"\0" * 8 + b"{}")
    error = refused(folder, tmp_path)
    assert error.code == code
    assert words in error.message


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_load_model_that_is_quantized_already_is_refused(tmp_path: Path, method: str):
    """Its weights in full precision are elsewhere."""
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))
    error = refused(tmp_path, tmp_path)
    assert (error.code, error.message) == ("model-unsupported", f"{tmp_path} is quantized already: {method}")
    assert "before it was quantized" in error.hint
