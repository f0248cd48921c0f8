"""The row of the mask in an ONNX graph of a masked language model: logits of that token instead of all tokens.

The row is taken before the product with the vocabulary where the graph ends with one. For all tokens this product takes
much of the time and most of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Names of the nodes and tensors that are added.
_PREFIX: Final = "edgeml_mask"
_IDS: Final = "input_ids"


def take_row(model: onnx.ModelProto, output: str, mask_id: int) -> None:
    """Change a graph in place so that it answers for the mask alone.

    Args:
        model: `output` is float [texts, tokens, vocabulary]; a graph with [texts, vocabulary] stays as it is.
        output: its name.
        mask_id: the mask's token.
    """
    graph = model.graph
    (value,) = (it for it in graph.output if it.name == output)
    if len(value.type.tensor_type.shape.dim) != 3:
        return
    product, after = _last_product(graph, output)
    taken = product.input[0] if product else f"{_PREFIX}_all"
    row = f"{_PREFIX}_row" if product else output
    if product:
        product.input[0] = row
    else:
        for node in graph.node:
            node.output[:] = [taken if name == output else name for name in node.output]
    _insert(graph, _nodes(graph, mask_id, taken, row), taken)
    stale = {output, *(name for node in after for name in node.output)}
    kept = [it for it in graph.value_info if it.name not in stale]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    del value.type.tensor_type.shape.dim[1]


def _last_product(graph: onnx.GraphProto, output: str) -> tuple[onnx.NodeProto | None, Sequence[onnx.NodeProto]]:
    """Find the product with the vocabulary, behind which at most a bias is added, and the nodes from it on."""
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    users = [name for node in graph.node for name in node.input]
    node, after = makers[output], []
    if node.op_type == "Add" and weights.intersection(node.input):
        after.append(node)
        (name,) = (it for it in node.input if it not in weights)
        node = makers[name]
    if node.op_type != "MatMul" or any(users.count(name) > 1 for name in node.output):
        return None, ()
    weight = makers.get(node.input[1])
    is_weight = node.input[1] in weights or (weight is not None and weights.issuperset(weight.input))
    return (node, [*after, node]) if is_weight and node.input[0] in makers else (None, ())


def _nodes(graph: onnx.GraphProto, mask_id: int, taken: str, row: str) -> list[onnx.NodeProto]:
    graph.initializer.append(numpy_helper.from_array(np.array(mask_id, dtype=np.int64), f"{_PREFIX}_id"))
    found, number, place = (f"{_PREFIX}_{name}" for name in ("found", "number", "place"))
    return [
        helper.make_node("Equal", [_IDS, f"{_PREFIX}_id"], [found], name=found),
        helper.make_node("Cast", [found], [number], name=number, to=onnx.TensorProto.INT32),
        helper.make_node("ArgMax", [number], [place], name=place, axis=1, keepdims=1),
        helper.make_node("GatherND", [taken, place], [row], name=f"{_PREFIX}_gather", batch_dims=1),
    ]


def _insert(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], taken: str) -> None:
    """Put nodes behind the one that makes `taken`: a graph's nodes are in the order of their runs."""
    (at,) = (number for number, node in enumerate(graph.node) if taken in node.output)
    whole = [*graph.node[: at + 1], *nodes, *graph.node[at + 1 :]]
    del graph.node[:]
    graph.node.extend(whole)
