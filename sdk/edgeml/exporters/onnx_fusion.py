"""Operator fusion for a language model's ONNX graph: fewer operators compute the same numbers.

A token's products are small: each operator costs its start again, and each product in int8 quantizes its input again.
onnxruntime fuses some operators when it loads a model; these are the ones that it leaves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeml.exporters import onnx_reshapes
from edgeml_core.processing import POSITIONS
from edgeml_runtime.tensors import Array

_DOMAIN: Final = "com.microsoft"
_ATTENTION: Final = "GroupQueryAttention"
#: The operator that adds and normalizes, by the norm.
_SUM_AND_NORM: Final = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
}
#: ONNX's own default of both norms.
_EPSILON: Final = 1e-5
#: The inputs of the attention before its tables of cosines and sines: queries, keys, values, cache and lengths.
_TABLES_AT: Final = 7
#: Numbers of a head that the attention rotates by vectors: it takes whole ones only.
_ROTATED_STEP: Final = 16
#: Bytes of all tables of cosines and sines; a longer context keeps its rotations outside of the attention.
TABLES_MAX_BYTES: Final = 32 * 1024 * 1024
#: How far a cosine may lie from that of another run.
_TOLERANCE: Final = 1e-5


def fuse(graph: onnx.GraphProto, tokens_max: int) -> None:
    """Join the products of one activation, and sums with the norms behind them; hand each attention one tensor.

    The attention rotates queries and keys itself where the angles depend on the position alone.

    Args:
        graph: float32, as `decoder_onnx` captures it.
        tokens_max: of a prompt and its answer: the length of the tables of cosines and sines.
    """
    _join_products(graph)
    _join_norms(graph)
    _pack(graph, tokens_max)


class _Product(NamedTuple):
    """A matrix product with constant weights, and the addition of its constant bias."""

    node: onnx.NodeProto
    bias: onnx.NodeProto | None

    @property
    def output(self) -> str:
        name: str = (self.bias or self.node).output[0]
        return name


def _join_products(graph: onnx.GraphProto) -> None:
    """Make one product and a Split of those with the same activation. Weights that several products share stay."""
    weights = {it.name: it for it in graph.initializer}
    alike: dict[tuple[str, bool], list[_Product]] = defaultdict(list)
    for product in _products(graph, weights):
        alike[product.node.input[0], product.bias is None].append(product)
    placed: dict[str, list[onnx.NodeProto]] = {}
    dropped: set[str] = set()
    for products in alike.values():
        if len(products) > 1:
            joined, tensors = _joined(products, weights)
            placed[products[0].node.output[0]] = joined
            graph.initializer.extend(tensors)
            dropped.update(name for it in products for name in (*it.node.output, it.output))
    nodes = [
        it for node in graph.node for it in placed.get(node.output[0], [] if node.output[0] in dropped else [node])
    ]
    _replace(graph, nodes)


def _products(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> Iterator[_Product]:
    """Yield the products whose weights no other node has, with the bias where the product has no other user."""
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(it.name for it in graph.output)
    users = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights or uses[node.input[1]] > 1:
            continue
        user = users.get(node.output[0])
        is_biased = (
            user is not None
            and user.op_type == "Add"
            and uses[node.output[0]] == 1
            and any(name in weights and list(weights[name].dims) == _width(node, weights) for name in user.input)
        )
        yield _Product(node, user if is_biased else None)


def _width(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> list[int]:
    return list(weights[node.input[1]].dims[1:])


def _joined(
    products: Sequence[_Product], weights: Mapping[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Make the nodes in place of some products, and their constants."""
    first = products[0]
    name = f"{first.node.input[1]}_joined"

    def constant(suffix: str, array: Array) -> onnx.TensorProto:
        return numpy_helper.from_array(np.ascontiguousarray(array), f"{name}{suffix}")

    matrices = [numpy_helper.to_array(weights[it.node.input[1]]) for it in products]
    tensors = [
        constant("", np.concatenate(matrices, axis=1)),
        constant("_widths", np.array([it.shape[1] for it in matrices])),
    ]
    nodes = [helper.make_node("MatMul", [first.node.input[0], name], [f"{name}_product"])]
    if biases := [it.bias for it in products if it.bias is not None]:
        vectors = (numpy_helper.to_array(weights[it]) for node in biases for it in node.input if it in weights)
        tensors.append(constant("_bias", np.concatenate(list(vectors))))
        nodes.append(helper.make_node("Add", [f"{name}_product", f"{name}_bias"], [f"{name}_sum"]))
    outputs = [it.output for it in products]
    nodes.append(helper.make_node("Split", [nodes[-1].output[0], f"{name}_widths"], outputs, axis=-1))
    return nodes, tensors


def _join_norms(graph: onnx.GraphProto) -> None:
    """Make one operator of a sum and the norm behind it, where both parts of the sum have the same shape."""
    shapes = {it.name: onnx_reshapes.shape(it) for it in (*graph.value_info, *graph.input)}
    weights = {it.name for it in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    placed: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for node in graph.node:
        total = made.get(node.input[0]) if node.op_type in _SUM_AND_NORM else None
        if total is None or total.op_type != "Add" or total.output[0] in placed:
            continue
        one, other = (shapes.get(name) for name in total.input)
        last_axis = {it.i for it in node.attribute if it.name == "axis"} <= {-1}
        has_more = any(node.output[1:])
        if one is None or one != other or not last_axis or has_more or not weights.issuperset(node.input[1:]):
            continue
        epsilon = next((it.f for it in node.attribute if it.name == "epsilon"), _EPSILON)
        inputs, outputs = [*total.input, *node.input[1:]], [node.output[0], "", "", total.output[0]]
        placed[total.output[0]] = helper.make_node(
            _SUM_AND_NORM[node.op_type], inputs, outputs, domain=_DOMAIN, epsilon=epsilon
        )
        dropped.add(node.output[0])
    nodes = [placed.get(node.output[0], node) for node in graph.node if node.output[0] not in dropped]
    _replace(graph, nodes)


def _pack(graph: onnx.GraphProto, tokens_max: int) -> None:
    """Give each attention the tensor that a Split parts into its queries, keys and values."""
    made = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    tables = _Tables(graph, tokens_max)
    for node in graph.node:
        if node.op_type != _ATTENTION:
            continue
        rotations = [made[name] for name in node.input[:2] if name in made and made[name].op_type == "RotaryEmbedding"]
        parts = [*(it.input[0] for it in rotations), *node.input[len(rotations) : 3]]
        split = made.get(parts[0])
        is_whole = split is not None and split.op_type == "Split" and list(split.output) == parts
        if split is None or not is_whole or any(uses[it] > 1 for it in parts) or len(rotations) == 1:
            continue
        angles = tables.of(rotations, node) if rotations else []
        if angles is None:
            continue
        del node.input[_TABLES_AT:]
        node.input[:3] = [split.input[0], "", ""]
        node.input.extend(angles)
        if rotations:
            node.attribute.append(helper.make_attribute("do_rotary", 1))
    graph.initializer.extend(tables.tensors)
    _replace(graph, _needed(graph))


class _Tables:
    """The cosines and sines of all positions, from the part of the graph that computes them for some.

    Args:
        graph: the whole graph.
        tokens_max: the number of positions.
    """

    def __init__(self, graph: onnx.GraphProto, tokens_max: int) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self._graph, self._count = graph, tokens_max
        self._sizes = {it.name: it.type.tensor_type.shape.dim[-1].dim_value for it in graph.input}
        self._found: dict[str, str | None] = {}

    def of(self, rotations: Sequence[onnx.NodeProto], attention: onnx.NodeProto) -> list[str] | None:
        """Return the tables that two rotations share; None where the attention can't rotate as they do."""
        query, key = rotations
        turned = {it.name: it.i for node in rotations for it in node.attribute}
        if query.input[1:] != key.input[1:] or turned.get("interleaved"):
            return None
        names = [self._table(name, self._sizes[attention.input[3]]) for name in query.input[1:]]
        found = [it for it in names if it is not None]
        return found if len(found) == len(names) else None

    def _table(self, name: str, size: int) -> str | None:
        if name not in self._found:
            self._found[name] = self._made(name, size)
        return self._found[name]

    def _made(self, name: str, size: int) -> str | None:
        nodes = _needed(self._graph, {name})
        constants = [it for it in self._graph.initializer if any(it.name in node.input for node in nodes)]
        free = {it for node in nodes for it in node.input} - {it for node in nodes for it in node.output}
        if free - {it.name for it in constants} != {POSITIONS}:
            return None
        inputs = [it for it in self._graph.input if it.name == POSITIONS]
        outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)]
        model = helper.make_model(helper.make_graph(nodes, "angles", inputs, outputs, constants))
        evaluator = ReferenceEvaluator(model)

        def angles(positions: Array) -> Array:
            (found,) = evaluator.run(None, {POSITIONS: positions[None]})
            values: Array = found[0].astype(np.float32)
            return values

        whole = angles(np.arange(self._count))
        width = whole.shape[-1]
        bytes_of_all = whole.nbytes + sum(len(it.raw_data) for it in self.tensors)
        if width > size // _ROTATED_STEP * (_ROTATED_STEP // 2) or bytes_of_all > TABLES_MAX_BYTES:
            return None
        # Some architectures take other angles in a longer text: their rotations stay outside.
        alone = [angles(np.array([it])) for it in (0, self._count // 2, self._count - 1)]
        if not np.allclose(np.concatenate(alone), whole[[0, self._count // 2, -1]], rtol=0, atol=_TOLERANCE):
            return None
        table = f"{name}_of_all"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(whole), table))
        return table


def _needed(graph: onnx.GraphProto, outputs: set[str] | None = None) -> list[onnx.NodeProto]:
    """List the nodes behind some tensors, by default the graph's outputs, in the graph's order."""
    wanted = {it.name for it in graph.output} if outputs is None else set(outputs)
    needed = []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            needed.append(node)
    return needed[::-1]


def _replace(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph, and drop the constants that none of them has."""
    copies = [onnx.NodeProto.FromString(it.SerializeToString()) for it in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in copies for name in node.input}
    kept = [it for it in graph.initializer if it.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
