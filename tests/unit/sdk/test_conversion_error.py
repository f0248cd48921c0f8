"""The errors of failed converters."""

import onnx
import pytest
from onnx import TensorProto, helper

from edgeml.exporters import conversion_error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Exporting the operator 'aten::fft_rfft' to ONNX opset version 17 is not supported.",
            "can't convert this model to ONNX: operator aten::fft_rfft is not supported",
        ),
        ("\n\n  Dimension mismatch\nmore", "can't convert this model to ONNX: Dimension mismatch"),
        ("", "can't convert this model to ONNX: ValueError"),
    ],
)
def test_unsupported_names_the_operator_or_the_first_line(text, message):
    """A converter's traceback has hundreds of lines; one is enough."""
    error = conversion_error.unsupported("onnx", ValueError(text))
    assert (error.code, error.message) == ("model-unsupported", message)
    assert "--format tflite" in error.hint


def test_unsupported_reads_the_cause_too():
    """Converters wrap the error that has the operator."""
    error = RuntimeError("lowering failed")
    error.__cause__ = NotImplementedError("no lowering for aten.linalg_det.default")
    found = conversion_error.unsupported("tflite", error)
    assert "operator aten.linalg_det.default is not supported" in found.message


@pytest.mark.parametrize(
    ("domain", "operator", "why"),
    [
        ("ai.onnx.ml", "TreeEnsembleClassifier", "TFLite has no operator TreeEnsembleClassifier"),
        ("", "Identity", "the converter takes PyTorch models"),
    ],
)
def test_no_tflite_names_the_reason(tmp_path, domain, operator, why):
    """A tree has no TFLite operator; any other .onnx file lacks the PyTorch model."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], domain=domain)], "g", [value], [value])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert why in conversion_error.no_tflite(tmp_path / "model.onnx").message
