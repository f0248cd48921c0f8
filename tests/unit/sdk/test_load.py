"""The sources that a model's name can stand for, and the refusals of the others."""

from pathlib import Path

import pytest

from edgeml.exporters.load import load
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.onnx", "there is no file or folder"), ("notes.txt", "is no model that edgeml can read")],
)
def test_load_tells_a_missing_file_from_an_unreadable_one(tmp_path: Path, name: str, message: str):
    """The first is a wrong path, the second a wrong format."""
    (tmp_path / "notes.txt").write_text("no model")
    request = ExportRequest(model=str(tmp_path / name), targets=("rpi4",), output=tmp_path / "out")
    with pytest.raises(UsageError, match=message) as caught:
        load(request, tmp_path)
    assert caught.value.code == "model-unreadable"
