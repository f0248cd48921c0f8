"""Reshapes of an ONNX graph that undo each other, removed: on one token each costs as much as it does on hundreds."""

from __future__ import annotations

import onnx


def fold(graph: onnx.GraphProto) -> None:
    """Remove pairs of Reshape, one behind the other, whose result has the shape that the first one was given.

    Shapes are those that the exporter has written, with names for dynamic lengths; a tensor without one is left alone.
    """
    shapes = {it.name: lengths for it in (*graph.value_info, *graph.input, *graph.output) if (lengths := shape(it))}
    made = {name: node for node in graph.node for name in node.output}
    same: dict[str, str] = {}
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = same.get(name, name)
        before = made.get(node.input[0]) if node.op_type == "Reshape" else None
        if before is not None and before.op_type == "Reshape":
            given, result = before.input[0], node.output[0]
            if given in shapes and shapes[given] == shapes.get(result):
                same[result] = given
    _drop(graph, same.keys() - {it.name for it in graph.output})


def _drop(graph: onnx.GraphProto, replaced: set[str]) -> None:
    """Remove the nodes of replaced tensors, and those whose results are used no more."""
    kept = [node for node in graph.node if not replaced.issuperset(node.output)]
    while True:
        used = {name for node in kept for name in node.input} | {it.name for it in graph.output}
        needed = [node for node in kept if not used.isdisjoint(node.output)]
        if len(needed) == len(kept):
            break
        kept = needed
    del graph.node[:]
    graph.node.extend(kept)


def shape(value: onnx.ValueInfoProto) -> tuple[str | int, ...] | None:
    """Return the lengths or their names; None where one is unknown."""
    lengths = tuple(it.dim_param or it.dim_value for it in value.type.tensor_type.shape.dim)
    return lengths if all(lengths) else None
