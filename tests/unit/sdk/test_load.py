"""The sources that a model's name can stand for, and the refusals of the others."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgeml.exporters.load import load
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "No such file"),
        ("absent.onnx", "No such file"),
        ("notes.txt/absent.pt2", "Not a directory"),
        ("a" * 5000, "File name too long"),
        ("nul\0byte", "null byte"),
    ],
    ids=["folder", "file", "in a file", "long", "nul"],
)
def test_load_model_that_can_not_be_opened_is_unreadable(tmp_path: Path, name: str, reason: str):
    """With the system's reason."""
    (tmp_path / "notes.txt").write_text("no model")
    request = ExportRequest(model=str(tmp_path / name), targets=("rpi4",), output=tmp_path / "out")
    with pytest.raises(UsageError, match=f"can't be opened: .*{reason}") as caught:
        load(request, tmp_path)
    assert caught.value.code == "model-unreadable"


@pytest.mark.parametrize("name", ["model", "model.bin", "notes.txt"])
def test_load_model_of_unknown_form_is_unreadable(tmp_path: Path, name: str):
    """The hint has the forms that there are."""
    (tmp_path / name).write_text("no model")
    request = ExportRequest(model=str(tmp_path / name), targets=("rpi4",), output=tmp_path / "out")
    with pytest.raises(UsageError, match="no model that edgeml can read") as caught:
        load(request, tmp_path)
    assert caught.value.code == "model-unreadable"
    assert "file.onnx" in caught.value.hint


def test_optimum_is_imported_only_for_transformers_models():
    """It takes seconds of CPU time, which a model from elsewhere needn't pay."""
    code = "from edgeml.exporters import to_onnx; import sys; print({'optimum', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
