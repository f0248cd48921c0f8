"""The pass that gives each token of a language model in dynamic int8 a scale of its own.

onnxruntime's dynamic quantization scales activations over a whole run. So a token gets other logits beside another
conversation, or where its prompt is read in other parts. Here each row is divided by its largest magnitude before it is
quantized, and its products are multiplied by it. A token then gets the same logits in all runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeml.quantize.onnx.graph_pass import has
from edgeml_runtime.tensors import Array

#: Steps of an activation on each side of zero, and the byte that stands for zero.
_STEPS: Final = 127
_ZERO: Final = 128
_CONTRIB: Final = "com.microsoft"
_DYNAMIC: Final = "DynamicQuantizeLinear"
_STEP, _MIDDLE, _LAST_AXIS = (f"row_scales_{it}" for it in ("step", "middle", "last_axis"))
_CONSTANTS: Final[Mapping[str, Array]] = {
    _STEP: np.array(1 / _STEPS, np.float32),
    _MIDDLE: np.array(_ZERO, np.uint8),
    _LAST_AXIS: np.array([-1], np.int64),
}


@dataclass(frozen=True, kw_only=True)
class RowScales:
    """Scale activations by row in a language model that writes its cache in place; leave other models as they are."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require activations that are scaled at run time, in a language model."""
        is_missing = _writes_in_place(model) and not has(model, _DYNAMIC)
        return "its activations aren't scaled at run time" if is_missing else None

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Replace each dynamic quantization, and the products behind it."""
        if _writes_in_place(model):
            graph = model.graph
            nodes = list(_rewritten(graph))
            del graph.node[:]
            graph.node.extend(nodes)
            graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
        return model

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that no scale depends on a whole run."""
        is_left = _writes_in_place(model) and has(model, _DYNAMIC)
        return "an activation is scaled over a whole run" if is_left else None


class _Scaled(NamedTuple):
    """The names of what an integer product is multiplied by, and of the result."""

    magnitude: str
    weight_scale: str
    output: str


def _writes_in_place(model: onnx.ModelProto) -> bool:
    return has(model, "GroupQueryAttention")


def _rewritten(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    makers = {output: node for node in graph.node for output in node.output}
    users = {name: node for node in graph.node for name in node.input}
    scaled: dict[str, _Scaled] = {}
    replaced: set[str] = set()
    for product in (node for node in graph.node if node.op_type == "MatMulInteger"):
        # The product is cast to float and multiplied by both scales, which are multiplied by each other before.
        cast = users[product.output[0]]
        multiplied = users[cast.output[0]]
        (scales,) = (makers[name] for name in multiplied.input if name != cast.output[0])
        magnitude = makers[product.input[0]].output[1]
        (weight_scale,) = (name for name in scales.input if name != magnitude)
        scaled[product.output[0]] = _Scaled(magnitude, weight_scale, multiplied.output[0])
        replaced |= {cast.output[0], multiplied.output[0], scales.output[0]}
    for node in graph.node:
        if node.op_type == _DYNAMIC:
            yield from _quantized(node)
        elif node.op_type == "MatMulInteger":
            yield from _product(node, scaled[node.output[0]])
        elif node.output[0] not in replaced:
            yield node


def _quantized(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Quantize to bytes around 128. The largest magnitude of each row takes the name of the scale.

    Of a row of zeros any bytes may come: its products are multiplied by 0.
    """
    rows, (output, magnitude, _) = node.input[0], node.output
    yield helper.make_node("Abs", [rows], [f"{output}_magnitudes"])
    yield helper.make_node("ReduceMax", [f"{output}_magnitudes", _LAST_AXIS], [magnitude], keepdims=1)
    yield helper.make_node("Div", [rows, magnitude], [f"{output}_divided"])
    yield helper.make_node("QuantizeLinear", [f"{output}_divided", _STEP, _MIDDLE], [output])


def _product(node: onnx.NodeProto, scaled: _Scaled) -> Iterator[onnx.NodeProto]:
    rows, weights, _, *weights_middle = node.input
    divided = f"{scaled.output}_divided"
    inputs = [rows, weights, _STEP, scaled.weight_scale, _MIDDLE, *weights_middle]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [divided], domain=_CONTRIB)
    yield helper.make_node("Mul", [divided, scaled.magnitude], [scaled.output])
