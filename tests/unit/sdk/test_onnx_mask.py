"""The row of the mask in a graph: the same logits, computed for one token."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgeml.exporters.onnx_mask import take_row

WORDS, WIDTH, MASK_ID = 7, 4, 5
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
IDS = np.array([[1, 2, 5, 3], [5, 0, 2, 6]])


def model(ending: str) -> onnx.ModelProto:
    """A table of words, and a product with another one; `ending` says what follows."""
    made = np.random.default_rng(3)
    tables = {
        "table": made.normal(size=(WORDS, WIDTH)),
        "words": made.normal(size=(WIDTH, WORDS)),
        "tied": made.normal(size=(WORDS, WIDTH)),
        "bias": made.normal(size=WORDS),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Tanh", ["rows"], ["hidden"]),
    ]
    match ending:
        case "bias":
            nodes += [
                helper.make_node("MatMul", ["hidden", "words"], ["product"]),
                helper.make_node("Add", ["product", "bias"], ["logits"]),
            ]
        case "tied":
            nodes += [
                helper.make_node("Transpose", ["tied"], ["turned"], perm=[1, 0]),
                helper.make_node("MatMul", ["hidden", "turned"], ["logits"]),
            ]
        case "scaled":
            nodes += [
                helper.make_node("MatMul", ["hidden", "words"], ["product"]),
                helper.make_node("Tanh", ["product"], ["logits"]),
            ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input_ids", INT64, ["texts", "tokens"])],
        [helper.make_tensor_value_info("logits", FLOAT, ["texts", "tokens", WORDS])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tables.items()],
        value_info=[helper.make_tensor_value_info("product", FLOAT, ["texts", "tokens", WORDS])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def logits(made: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run(["logits"], {"input_ids": IDS})[0]


@pytest.mark.parametrize(("ending", "is_first"), [("bias", True), ("tied", True), ("scaled", False)])
def test_row_is_that_of_the_mask(ending: str, is_first: bool):
    """Before the product with the vocabulary, where the graph ends with it."""
    given = model(ending)
    whole = logits(given)
    take_row(given, "logits", MASK_ID)
    np.testing.assert_allclose(logits(given), whole[[0, 1], [2, 0]], rtol=1e-6)
    order = [node.op_type for node in given.graph.node]
    assert (order.index("GatherND") < order.index("MatMul")) == is_first


def test_graph_that_answers_for_one_token_stays():
    """The module took the row before it was converted."""
    given = model("bias")
    take_row(given, "logits", MASK_ID)
    before = given.SerializeToString()
    take_row(given, "logits", MASK_ID)
    assert given.SerializeToString() == before
