"""The pass from Gemm to MatMul and Add, before passes that take matrix products only.

onnxruntime's dynamic quantizer does the same itself. A pass that chooses among its nodes needs them earlier.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel


@dataclass(frozen=True)
class GemmAsMatMul:
    """Replace each Gemm whose alpha and beta are 1; constant weights are transposed where it says so."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require an operator."""
        return None if model.graph.node else "it has no operator"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Replace the Gemms."""
        wrapped = ONNXModel(model)
        wrapped.replace_gemm_with_matmul()
        return wrapped.model

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that every node has a name, by which later passes exclude nodes."""
        return None if all(node.name for node in model.graph.node) else "a node has no name"
