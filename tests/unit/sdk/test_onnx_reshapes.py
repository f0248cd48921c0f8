"""Reshapes that undo each other: removed where the shapes prove it, kept elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeml.exporters import onnx_reshapes

GIVEN = np.arange(24, dtype=np.float32).reshape(1, 2, 12)


def chain(first: list[int], second: list[int], middle: tuple, result: tuple, *, ends: tuple[str, ...] = ("end",)):
    """A model: Neg, Reshape, Reshape, Neg; with the shapes that an exporter has written beside it."""
    nodes = [
        helper.make_node("Neg", ["x"], ["negative"]),
        helper.make_node("Reshape", ["negative", "first"], ["split"]),
        helper.make_node("Reshape", ["split", "second"], ["joined"]),
        helper.make_node("Neg", ["joined"], ["end"]),
    ]
    shapes = {"negative": ("rows", "tokens", 12), "split": middle, "joined": result, "end": result}
    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("rows", "tokens", 12))],
        [value[name] for name in ends],
        [
            helper.make_tensor("first", TensorProto.INT64, [len(first)], first),
            helper.make_tensor("second", TensorProto.INT64, [len(second)], second),
        ],
        value_info=[it for name, it in value.items() if name not in ends],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    """What onnxruntime computes."""
    onnx.checker.check_model(model, full_check=True)
    found: list[np.ndarray] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": GIVEN})
    return found


def kinds(model: onnx.ModelProto) -> list[str]:
    """The operators that are left."""
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("middle", "result", "second", "left"),
    [
        (("rows", "tokens", 3, 4), ("rows", "tokens", 12), [0, 0, 12], ["Neg", "Neg"]),
        (("rows", "tokens", 3, 4), ("rows", "tokens", 3, 4), [0, 0, 3, 4], ["Neg", "Reshape", "Reshape", "Neg"]),
        (("rows", "tokens", 3, 4), ("rows", None, 12), [0, 0, 12], ["Neg", "Reshape", "Reshape", "Neg"]),
    ],
    ids=["the same shape", "another shape", "an unknown length"],
)
def test_fold_removes_a_pair_that_ends_where_it_began(middle, result, second, left):
    """What the model computes stays the same."""
    model = chain([0, 0, 3, 4], second, middle, result)
    expected = outputs(model)
    onnx_reshapes.fold(model.graph)
    assert kinds(model) == left
    np.testing.assert_array_equal(outputs(model)[0], expected[0])


def test_fold_keeps_what_is_used_elsewhere():
    """The tensor between the two is an output of the model."""
    model = chain([0, 0, 3, 4], [0, 0, 12], ("rows", "tokens", 3, 4), ("rows", "tokens", 12), ends=("end", "split"))
    expected = outputs(model)
    onnx_reshapes.fold(model.graph)
    assert kinds(model) == ["Neg", "Reshape", "Neg"]
    for found, wanted in zip(outputs(model), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_fold_keeps_a_pair_that_is_an_output():
    """Its name is the model's."""
    model = chain([0, 0, 3, 4], [0, 0, 12], ("rows", "tokens", 3, 4), ("rows", "tokens", 12), ends=("end", "joined"))
    onnx_reshapes.fold(model.graph)
    assert [it.shape for it in outputs(model)] == [(1, 2, 12), (1, 2, 12)]
