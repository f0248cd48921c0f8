"""The pass before all others: fold constants and batch norms, infer shapes. Nothing is fused beyond that."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization.shape_inference import quant_pre_process


@dataclass(frozen=True)
class Prepare:
    """onnxruntime's own preparation. Its symbolic shape inference stops at models with free lengths: ONNX's is used."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Any operator at all."""
        return None if model.graph.node else "it has no operator"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The prepared model."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prepared.onnx"
            quant_pre_process(model, path, skip_symbolic_shape=True)
            return onnx.load(path)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Batch norms are gone: they have no int8 form."""
        return "a BatchNormalization could not be folded" if _unfolded(model) else None


def _unfolded(model: onnx.ModelProto) -> bool:
    convolved = {output for node in model.graph.node if node.op_type == "Conv" for output in node.output}
    return any(node.op_type == "BatchNormalization" and node.input[0] in convolved for node in model.graph.node)
