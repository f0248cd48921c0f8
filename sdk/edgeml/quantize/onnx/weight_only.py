"""The pass to weight-only int8: a quarter of the bytes to fetch and store, the speed and accuracy of fp32.

Weights are stored as int8. The runtime converts them to float when it loads the model, and folds the two nodes away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeml.quantize.onnx.embeddings import quantize

#: Elements of a weight; a smaller one isn't worth two more nodes.
WEIGHT_MIN_ELEMENTS: Final = 1024
#: The axis of the output channels in each operator's second input; a Gemm's weights may be transposed.
_CHANNEL_AXES: Final = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}


@dataclass(frozen=True)
class WeightOnly:
    """Quantize constant weights of convolutions and matrix products, per channel."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require an operator with large weights."""
        return None if _axes(model.graph) else "it has no large weights"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Store the weights as int8."""
        graph = model.graph
        axes = _axes(graph)
        stored: list[onnx.TensorProto] = []
        nodes: list[onnx.NodeProto] = []
        for tensor in graph.initializer:
            if tensor.name not in axes:
                stored.append(tensor)
                continue
            values, scales = quantize(numpy_helper.to_array(tensor), axis=axes[tensor.name])
            stored += [
                numpy_helper.from_array(values, f"{tensor.name}_int8"),
                numpy_helper.from_array(scales, f"{tensor.name}_scale"),
            ]
            nodes += _restored(tensor.name)
        nodes += graph.node
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(stored)
        return model

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that no large weights are left in float."""
        return "weights stayed in float" if _axes(model.graph) else None


def _axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Map every large float weight to its channel axis."""
    large = {
        tensor.name: len(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) >= 2
        and int(np.prod(tensor.dims)) >= WEIGHT_MIN_ELEMENTS
    }
    return {
        node.input[1]: _channel_axis(node) % large[node.input[1]]
        for node in graph.node
        if node.op_type in _CHANNEL_AXES and node.input[1] in large
    }


def _channel_axis(node: onnx.NodeProto) -> int:
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if is_transposed else _CHANNEL_AXES[node.op_type]


def _restored(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], f"{name}_cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name], f"{name}_mul"),
    ]
