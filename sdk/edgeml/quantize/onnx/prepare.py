"""The pass before all others: fold constants and batch norms, and infer shapes. It fuses nothing else."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization.shape_inference import quant_pre_process


@dataclass(frozen=True)
class Prepare:
    """Run onnxruntime's preparation with ONNX's shape inference; the symbolic one fails for models of any length."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require an operator."""
        return None if model.graph.node else "it has no operator"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Prepare the model."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prepared.onnx"
            quant_pre_process(model, path, skip_symbolic_shape=True)
            return onnx.load(path)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that no batch norm is left after a convolution; it has no int8 form."""
        return "a BatchNormalization could not be folded" if _unfolded(model) else None


def _unfolded(model: onnx.ModelProto) -> bool:
    convolved = {output for node in model.graph.node if node.op_type == "Conv" for output in node.output}
    return any(node.op_type == "BatchNormalization" and node.input[0] in convolved for node in model.graph.node)
