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
from edgeml.quantize.onnx.graph_pass import all_nodes
from edgeml.quantize.onnx.prepare import lift_weights

#: Elements of a weight; a smaller one isn't worth two more nodes.
WEIGHT_MIN_ELEMENTS: Final = 1024
#: The axis of the output channels in each operator's weights; a Gemm's may be transposed.
_CHANNEL_AXES: Final = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1, "LSTM": 1, "GRU": 1, "RNN": 1}
#: Bytes of a float32 beyond those of an int8.
_FURTHER_BYTES: Final = 3
#: Operators with a second matrix of weights, of the recurrence, behind the first.
_RECURRENT: Final = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True)
class WeightOnly:
    """Quantize constant weights of convolutions, matrix products and recurrent layers, per channel.

    Args:
        rest: whether another pass comes before, which may have left no large weights.
    """

    rest: bool = False

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require an operator with large weights."""
        return None if self.rest or _axes(model.graph) else "it has no large weights"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Store the weights as int8; a pass before may have made new ones inside branches."""
        graph = model.graph
        lift_weights(graph)
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


def restored_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the weights that the runtime restores from int8 to fp32."""
    return {node.output[0] for node in graph.node if node.op_type == "Mul" and node.name == f"{node.output[0]}_mul"}


def restored_bytes(model: onnx.ModelProto) -> int:
    """Count the bytes that int8 weights, which the runtime folds to fp32 when it loads the model, take more then."""
    stored = {it.name: int(np.prod(it.dims)) for it in model.graph.initializer if it.data_type == onnx.TensorProto.INT8}
    restored = (node.input[0] for node in model.graph.node if node.op_type == "Cast")
    return sum(_FURTHER_BYTES * stored.get(name, 0) for name in restored)


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
        name: _channel_axis(node) % large[name]
        for node in all_nodes(graph)
        if node.op_type in _CHANNEL_AXES
        for name in node.input[1 : 3 if node.op_type in _RECURRENT else 2]
        if name in large
    }


def _channel_axis(node: onnx.NodeProto) -> int:
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if is_transposed else _CHANNEL_AXES[node.op_type]


def _restored(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], f"{name}_cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name], f"{name}_mul"),
    ]
