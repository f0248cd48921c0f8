"""A classifier whose answers are probabilities gets no second softmax, which would make them nearly even."""

import json

import pytest
import torch

from edgeml.exporters import load
from edgeml.pipeline.request import ExportRequest

NETS = {
    "softmax": "torch.nn.Flatten(), torch.nn.Linear(12, 3)",
    "none": "torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.Softmax(1)",
}
CODE = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential({layers}).eval(), torch.ones(1, 3, 2, 2)
"""


def loaded(model, tmp_path):
    """Load a classifier of pictures."""
    (tmp_path / "work").mkdir()
    request = ExportRequest(model=model, targets=("rpi4",), output=tmp_path, task="image-classification")
    return load.load(request, tmp_path / "work")


@pytest.mark.parametrize("activation", NETS)
def test_function_that_returns_probabilities_keeps_them(tmp_path, activation):
    """One that returns scores gets the softmax of its task."""
    (tmp_path / "nets.py").write_text(CODE.format(layers=NETS[activation]))
    source = loaded(f"{tmp_path / 'nets.py'}:net", tmp_path)
    assert source.signature.postprocess.activation == activation
    assert any("no softmax follows" in note for note in source.notes) == (activation == "none")


@pytest.mark.parametrize("activation", NETS)
def test_onnx_file_that_returns_probabilities_keeps_them(tmp_path, activation):
    """The same for a file, where no library judges the answers."""
    scope = {}
    exec(CODE.format(layers=NETS[activation]), scope)  # noqa: S102 - the text above
    net, example = scope["net"]()
    torch.onnx.export(net, (example,), tmp_path / "net.onnx", dynamo=False)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cow", "1": "calf", "2": "bull"}}))
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 2, "width": 2}}')
    source = loaded(str(tmp_path / "net.onnx"), tmp_path)
    assert source.signature.postprocess.activation == activation
    assert any("no softmax follows" in note for note in source.notes) == (activation == "none")
