"""The pass before passes that know matrix products only: Gemm becomes MatMul and Add.

onnxruntime's dynamic quantizer does the same on its own; what chooses among its nodes must see them first.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel


@dataclass(frozen=True)
class GemmAsMatMul:
    """Gemm with alpha and beta of 1, its constant weights turned where they lie turned."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Any operator at all."""
        return None if model.graph.node else "it has no operator"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model without such Gemms."""
        wrapped = ONNXModel(model)
        wrapped.replace_gemm_with_matmul()
        return wrapped.model

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Every node has a name: what leaves nodes out does it by name."""
        return None if all(node.name for node in model.graph.node) else "a node has no name"
