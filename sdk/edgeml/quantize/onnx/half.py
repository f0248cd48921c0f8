"""The pass to weights of 16 bits: half the bytes to fetch and store, the speed and accuracy of fp32.

The runtime converts them to fp32 when it loads the model. Nothing is computed in 16 bits: x86 has no such kernels, and
the casts around each operator cost MiniLM 12 % of its speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Elements of a tensor; a smaller one isn't worth one more node.
TENSOR_MIN_ELEMENTS: Final = 1024
_LARGEST: Final = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class HalfWeights:
    """Store every large constant in float16."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require large constants, all of them within the range of float16."""
        large = [numpy_helper.to_array(tensor) for tensor in _large(model.graph)]
        if not large:
            return "it has no large weights"
        return "16 bits can't hold its weights" if any(np.abs(it).max() > _LARGEST for it in large) else None

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Convert large constants to float16, with a cast of each at the beginning of the graph."""
        graph = model.graph
        casts = []
        for tensor in list(_large(graph)):
            name, stored = tensor.name, f"{tensor.name}_half"
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, stored))
            casts.append(helper.make_node("Cast", [stored], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        return model

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that no large constant is left in 32 bits."""
        return "a weight stayed in 32 bits" if any(_large(model.graph)) else None


def _large(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    return (
        tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) >= TENSOR_MIN_ELEMENTS
    )
