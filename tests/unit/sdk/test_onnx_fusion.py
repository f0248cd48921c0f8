"""Operator fusion: fewer operators, the same numbers in onnxruntime; and what must stay."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from edgeml.exporters import onnx_fusion

ROWS, TOKENS, ROOM = 2, 5, 16
HEADS, KEY_HEADS, SIZE = 4, 2, 32
HIDDEN = HEADS * SIZE
WIDTHS = {"query": HIDDEN, "key": KEY_HEADS * SIZE, "value": KEY_HEADS * SIZE}
#: A layer: products with a bias, rotations, an attention, and two further products of its output.
LAYER = f"""
<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>
layer (float[rows, tokens, {HIDDEN}] hidden, int64[rows, tokens] position_ids, int32[rows] seqlens_k,
       int32[1] total,
       float[rows, {KEY_HEADS}, room, {SIZE}] past_key, float[rows, {KEY_HEADS}, room, {SIZE}] past_value)
   => (float[rows, tokens, {HIDDEN}] out, float[rows, {KEY_HEADS}, room, {SIZE}] present_key,
       float[rows, {KEY_HEADS}, room, {SIZE}] present_value)
{{
   query_product = MatMul (hidden, query_weight)
   query = Add (query_product, query_bias)
   key_product = MatMul (hidden, key_weight)
   key = Add (key_bias, key_product)
   value_product = MatMul (hidden, value_weight)
   value = Add (value_product, value_bias)
   last = Constant <value_ints = [-1]> ()
   column = Unsqueeze (position_ids, last)
   numbers = Cast <to = 1> (column)
   angles = Mul (numbers, frequencies)
   cos = Cos (angles)
   sin = Sin (angles)
   turned_query = RotaryEmbedding <num_heads = {HEADS}> (query, cos, sin)
   turned_key = RotaryEmbedding <num_heads = {KEY_HEADS}> (key, cos, sin)
   attended, present_key, present_value = com.microsoft.GroupQueryAttention
      <num_heads = {HEADS}, kv_num_heads = {KEY_HEADS}>
      (turned_query, turned_key, value, past_key, past_value, seqlens_k, total)
   gate = MatMul (attended, gate_weight)
   up = MatMul (attended, up_weight)
   out = Mul (gate, up)
}}
"""


def layer(text: str = LAYER) -> onnx.ModelProto:
    """A graph with random weights."""
    chance = np.random.default_rng(0)
    tensors = {"frequencies": 1.0 / 100.0 ** (np.arange(SIZE // 2) / (SIZE // 2))}
    for name, width in WIDTHS.items():
        tensors[f"{name}_weight"] = chance.normal(0, 0.1, (HIDDEN, width))
        tensors[f"{name}_bias"] = chance.normal(0, 0.1, width)
    tensors["gate_weight"], tensors["up_weight"] = chance.normal(0, 0.1, (2, HIDDEN, HIDDEN))
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(it.astype(np.float32), name) for name, it in tensors.items())
    return model


def joined(model: onnx.ModelProto, tokens_max: int = ROOM) -> onnx.ModelProto:
    """The same model, joined."""
    other = onnx.ModelProto.FromString(model.SerializeToString())
    onnx_fusion.fuse(other.graph, tokens_max)
    onnx.checker.check_model(other)
    return other


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators in order."""
    return [it.op_type for it in model.graph.node]


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    """A prompt, then a token of two rows at different places behind it."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    chance, found = np.random.default_rng(1), []
    cache = {f"past_{it}": np.zeros((ROWS, KEY_HEADS, ROOM, SIZE), np.float32) for it in ("key", "value")}
    for tokens, before in ((TOKENS, [0, 0]), (1, [TOKENS, TOKENS - 2])):
        feeds = {
            "hidden": chance.normal(size=(ROWS, tokens, HIDDEN)).astype(np.float32),
            "position_ids": np.array(before)[:, None] + np.arange(tokens),
            "seqlens_k": np.array(before, np.int32) + tokens - 1,
            "total": np.array([max(before) + tokens], np.int32),
        }
        out, key, value = session.run(["out", "present_key", "present_value"], {**feeds, **cache})
        cache = {"past_key": key, "past_value": value}
        found.append(out)
    return found


def test_layer_becomes_four_operators_with_the_same_numbers():
    """One product with its bias, the attention that rotates, one product behind it; a Split where one is needed."""
    model = layer()
    made = joined(model)
    assert operators(made) == ["MatMul", "Add", "GroupQueryAttention", "MatMul", "Split", "Mul"]
    for found, expected in zip(answers(made), answers(model), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not {it.name for it in made.graph.initializer} & {it.name for it in model.graph.initializer}


def test_rotations_of_a_long_context_stay_outside(monkeypatch: pytest.MonkeyPatch):
    """Their tables would take too much memory."""
    monkeypatch.setattr(onnx_fusion, "TABLES_MAX_BYTES", ROOM * SIZE // 2 * 4 * 2 - 1)
    model = layer()
    made = joined(model)
    assert operators(made).count("RotaryEmbedding") == 2
    assert operators(made).count("MatMul") == 2
    for found, expected in zip(answers(made), answers(model), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


ANGLES = "angles = Mul (numbers, frequencies)"
KEYS = "turned_key = RotaryEmbedding <num_heads = 2> (key, cos, sin)"
OUT = "out = Mul (gate, up)"
LONGEST = "highest = ReduceMax (numbers)\n far = Add (numbers, highest)\n angles = Mul (far, frequencies)"
OF_TEXT = "shift = ReduceMean (hidden)\n far = Add (numbers, shift)\n angles = Mul (far, frequencies)"


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        pytest.param(ANGLES, LONGEST, id="angles of the longest"),
        pytest.param(ANGLES, OF_TEXT, id="angles of the text"),
        pytest.param(KEYS, KEYS.replace("cos, sin", "sin, cos"), id="keys turned otherwise"),
        pytest.param(KEYS, "turned_key = Identity (key)", id="queries alone turned"),
        pytest.param(
            "out = Mul (gate, up)", "both = Mul (gate, up)\n out = Add (both, query)", id="queries used again"
        ),
    ],
)
def test_attention_keeps_rotations_that_it_can_not_do(line: str, changed: str):
    """Angles that depend on more than the position, two kinds of rotation, or a part that others need."""
    assert line in LAYER
    model = layer(LAYER.replace(line, changed))
    made = joined(model)
    assert "RotaryEmbedding" in operators(made)
    for found, expected in zip(answers(made), answers(model), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_two_products_share_stay():
    """Joined, they would be stored twice."""
    model = layer(LAYER.replace("up = MatMul (attended, up_weight)", "up = MatMul (attended, gate_weight)"))
    assert operators(joined(model)).count("MatMul") == 3


NORMS = f"""
<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>
norms (float[rows, tokens, {HIDDEN}] hidden) => (float[rows, tokens, {HIDDEN}] out)
<float[rows, tokens, {HIDDEN}] product, float[{HIDDEN}] row>
{{
   product = MatMul (hidden, weight)
   sum = Add (product, hidden)
   normed = OPERATOR <axis = -1, epsilon = 0.001> (sum, scale)
   further = OPERATOR <axis = -1> (sum, scale)
   row = Identity (scale)
   biased = Add (row, normed)
   last = OPERATOR <axis = -1> (biased, scale)
   total = Add (sum, last)
   out = Add (total, further)
}}
"""

JOINED = {"RMSNormalization": "SkipSimplifiedLayerNormalization", "LayerNormalization": "SkipLayerNormalization"}


@pytest.mark.parametrize("norm", JOINED)
def test_sum_and_norm_become_one_operator(norm: str):
    """Its sum is used by others as well; a second norm of it, and one of a row added to all, stay."""
    model = parser.parse_model(NORMS.replace("OPERATOR", norm))
    chance = np.random.default_rng(0)
    tensors = {"weight": chance.normal(0, 0.1, (HIDDEN, HIDDEN)), "scale": chance.normal(1, 0.1, HIDDEN)}
    model.graph.initializer.extend(numpy_helper.from_array(it.astype(np.float32), name) for name, it in tensors.items())
    made = joined(model)
    assert set(operators(made)) - set(operators(model)) == {JOINED[norm]}
    assert operators(made).count(norm) == 2
    rows = {"hidden": chance.normal(size=(ROWS, TOKENS, HIDDEN)).astype(np.float32)}
    found, expected = (
        onnxruntime.InferenceSession(it.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, rows)
        for it in (made, model)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
