"""Models from `.onnx` files: their signature, and the files that are refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeml.exporters import load, onnx_file
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError


def linear(path, *, opset=17, quantized=False):
    """Write y = x W, float32 [batch, 4] to [batch, 2]."""
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if quantized:
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("MatMul", ["d", "w"], ["y"]),
        ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "linear", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def test_load_reads_the_signature_and_runs_the_original(tmp_path):
    """A named length is any length; the example is of batch 1."""
    source = onnx_file.load(linear(tmp_path / "model.onnx"), None, tmp_path)
    assert [(it.name, it.shape) for it in source.signature.inputs] == [("x", (-1, 4))]
    assert source.example["x"].shape == (1, 4)
    np.testing.assert_allclose(source.original.run({"x": np.ones((3, 4), np.float32)})["y"], np.full((3, 2), 4.0))
    source.original.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"opset": 11}, "opset 11; 13 is the oldest"), ({"quantized": True}, "quantized already")],
)
def test_load_model_that_cannot_be_quantized_is_unsupported(tmp_path, options, message):
    """Too old an opset, or a model in int8."""
    with pytest.raises(UsageError, match=message) as caught:
        onnx_file.load(linear(tmp_path / "model.onnx", **options), None, tmp_path)
    assert caught.value.code == "model-unsupported"


def test_load_file_that_is_no_model_is_unreadable(tmp_path):
    """Bytes of another kind."""
    (tmp_path / "model.onnx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match="not a valid ONNX model") as caught:
        onnx_file.load(tmp_path / "model.onnx", None, tmp_path)
    assert caught.value.code == "model-unreadable"


@pytest.mark.parametrize(
    ("model", "name", "release"),
    [("Mood Model (v2).onnx", None, "mood-model-v2"), ("model.onnx", "mood", "mood")],
)
def test_release_name_is_requested_or_derived(tmp_path, model, name, release):
    """Characters that a name can't have become dashes."""
    request = ExportRequest(model=str(linear(tmp_path / model)), targets=("rpi4",), output=tmp_path, name=name)
    assert load.release_name(request, load.load(request, tmp_path)) == release


def test_release_name_without_letters_is_a_usage_error(tmp_path):
    """The message names the option."""
    request = ExportRequest(model=str(linear(tmp_path / "模型.onnx")), targets=("rpi4",), output=tmp_path)
    with pytest.raises(UsageError, match="--name"):
        load.release_name(request, load.load(request, tmp_path))
