"""The bytes of weights that a language model reads from memory for each token, from its graph. No weight is read."""

from __future__ import annotations

import math
from typing import Final

import onnx
from onnx import TensorProto, helper

from edgeml.exporters.source import Built
from edgeml.quantize import recipes
from edgeml.quantize.onnx.graph_pass import all_nodes
from edgeml_core.processing import Generation

#: Operators that take rows of their first input, such as embeddings, and read the others in whole.
_LOOKUPS: Final = frozenset({"Gather", "GatherND"})
#: The operator whose result takes the place of stored weights when a model is loaded, in fp32.
_RESTORES: Final = "DequantizeLinear"
_FLOAT_BYTES: Final = 4


def weight_bytes(model: Built, fp32: Built) -> int:
    """Sum the bytes of the weights that are read in whole for each token; 0 for models that write no text.

    Args:
        model: the candidate.
        fp32: the form that it was made from, whose weights are in memory where the candidate runs as float.
    """
    if not isinstance(model.signature.postprocess, Generation) or model.file_format != "onnx":
        return 0
    held = fp32 if recipes.TABLE[model.recipe].runs_as_float else model
    graph = onnx.load(held.path, load_external_data=False).graph
    sizes = {it.name: it for it in graph.initializer}
    read: dict[str, int] = {}
    for node in all_nodes(graph):
        for place, name in enumerate(node.input):
            if name in sizes and not (place == 0 and node.op_type in _LOOKUPS):
                read[name] = _bytes(sizes[name], is_restored=node.op_type == _RESTORES)
    return sum(read.values())


def _bytes(tensor: TensorProto, *, is_restored: bool) -> int:
    each = _FLOAT_BYTES if is_restored else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return each * math.prod(map(int, tensor.dims))
