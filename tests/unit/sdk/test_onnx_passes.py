"""The passes that quantize ONNX models, each on a small real model in onnxruntime."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeml.exporters import onnx_layout
from edgeml.exporters.source import Signature
from edgeml.quantize.onnx import recipes, row_scales
from edgeml.quantize.onnx.dynamic import Dynamic
from edgeml.quantize.onnx.graph_pass import has, run
from edgeml.quantize.onnx.mixed import GROUPS_MAX, group, worst
from edgeml.quantize.onnx.nbits import pack
from edgeml.quantize.onnx.row_scales import RowScales
from edgeml.quantize.onnx.weight_only import restored_bytes
from edgeml_core.errors import UsageError
from edgeml_core.processing import TensorInput, TensorOutput
from edgeml_core.profile import RECIPES
from edgeml_runtime.engines.ort import OrtSession
from edgeml_runtime.verify.golden import cosine

ROWS, COLUMNS, OUT = 512, 64, 32
SIGNATURE = Signature(inputs=(), outputs=(), preprocess=TensorInput(), postprocess=TensorOutput())
IDS = {"ids": np.arange(12, dtype=np.int64).reshape(1, 12)}
#: Rows of very unequal size, as real embedding tables have: one scale for all would drown the small ones.
SCALES = np.geomspace(0.01, 1, ROWS, dtype=np.float32)[:, None]


def embedder(seed: int = 0) -> onnx.ModelProto:
    """Look up rows, multiply by a matrix: the shape of a text model."""
    values = np.random.default_rng(seed)
    table = values.standard_normal((ROWS, COLUMNS), dtype=np.float32) * SCALES
    matrix = values.standard_normal((COLUMNS, OUT), dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "gather"),
        helper.make_node("MatMul", ["rows", "matrix"], ["y"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", OUT])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(matrix, "matrix")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def deeper() -> onnx.ModelProto:
    """A second product behind the first, so that one can stay in float."""
    model = embedder()
    matrix = np.random.default_rng(2).standard_normal((OUT, OUT), dtype=np.float32)
    model.graph.node[1].output[0] = "hidden"
    model.graph.node.append(helper.make_node("MatMul", ["hidden", "second"], ["y"], "product_2"))
    model.graph.initializer.append(numpy_helper.from_array(matrix, "second"))
    return model


def answer(model: onnx.ModelProto, folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    built = onnx_layout.write(model, folder, recipe="none", signature=SIGNATURE)
    return OrtSession(built.path, {}, threads=1).run(inputs)["y"]


def unnamed() -> onnx.ModelProto:
    """The same without names of nodes, which ONNX doesn't require."""
    model = deeper()
    for node in model.graph.node:
        node.name = ""
    return model


def reshaped() -> onnx.ModelProto:
    """The same with a Reshape by constant sizes before the second product, which shape inference must read."""
    model = deeper()
    model.graph.node[-1].input[0] = "flat"
    model.graph.node.insert(-1, helper.make_node("Reshape", ["hidden", "sizes"], ["flat"], "flatten"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, -1, OUT]), "sizes"))
    return model


def listed() -> onnx.ModelProto:
    """The same with its weights among the inputs, as old files have them."""
    model = deeper()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


@pytest.mark.parametrize("build", [deeper, unnamed, reshaped, listed])
@pytest.mark.parametrize("recipe", sorted(RECIPES["onnxruntime"]))
def test_every_recipe_keeps_the_model_close_to_fp32(tmp_path: Path, recipe: str, build: Callable[[], onnx.ModelProto]):
    """Each through its own passes, run in onnxruntime; 4 bits can't be as close as 8."""
    expected = answer(deeper(), tmp_path / "fp32", IDS)
    found = answer(run(recipes.passes(recipe, [IDS]), build()), tmp_path / "int8", IDS)
    assert cosine(found.ravel(), expected.ravel()) > (0.98 if recipe.endswith("4bit") else 0.999)


def test_row_scales_give_a_row_the_same_numbers_beside_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bit by bit, near fp32; a row of zeros gives zeros."""
    monkeypatch.setattr(row_scales, "_writes_in_place", lambda _: True)
    model = embedder()
    model.opset_import[0].version = 23
    table = numpy_helper.to_array(model.graph.initializer[0]).copy()
    table[3] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    expected = answer(copy.deepcopy(model), tmp_path / "fp32", IDS)
    quantized = run([Dynamic(signed=True, reduced=False), RowScales()], model)
    found = answer(copy.deepcopy(quantized), tmp_path / "all", IDS)
    ids = [{"ids": IDS["ids"][:, row : row + 1]} for row in range(12)]
    alone = [answer(copy.deepcopy(quantized), tmp_path / str(row), one) for row, one in enumerate(ids)]
    np.testing.assert_array_equal(np.concatenate(alone, axis=1), found)
    assert not found[0, 3].any()
    rows = [np.delete(it[0], 3, 0) for it in (found, expected)]
    assert all(cosine(*pair) > 0.999 for pair in zip(*rows, strict=True))


@pytest.mark.parametrize(("bits", "share"), [(8, 1), (4, 2)])
def test_block_weights_are_packed_as_the_operator_reads_them(tmp_path: Path, bits: int, share: int):
    """Values that the grid holds exactly come back exactly, at 8 bits and two in a byte at 4."""
    grid = np.random.default_rng(0).integers(-7, 8, (64, 4)).astype(np.float32)
    grid[0::32] = 7 if bits == 4 else 127
    values, scales = pack(grid, bits=bits)
    assert (values.shape, values.dtype, scales.shape) == ((4, 2, 32 // share), np.uint8, (8,))
    np.testing.assert_allclose(scales, 1)
    whole = values.astype(int) if bits == 8 else np.stack([values & 15, values >> 4], axis=-1).reshape(4, 2, 32)
    np.testing.assert_array_equal(whole.reshape(4, 64).astype(int).T - (1 << (bits - 1)), grid)


@pytest.mark.parametrize("bits", [4, 8])
def test_block_weights_keep_a_grid_of_two_s_complement(bits: int):
    """llama.cpp's Q4_0 puts the largest weight of a block, of either sign, at -8 steps of a scale in fp16."""
    half, chance = 1 << (bits - 1), np.random.default_rng(0)
    steps = chance.integers(-half, half, (6, 32))
    steps[:, 0] = -half
    sizes = chance.normal(0, 0.01, (6, 1)).astype(np.float16).astype(np.float32)
    values, scales = pack(np.ascontiguousarray((steps * sizes).astype(np.float32).T), bits=bits)
    whole = values if bits == 8 else np.stack([values & 15, values >> 4], axis=-1)
    np.testing.assert_array_equal(whole.reshape(6, 32).astype(int) - half, steps)
    np.testing.assert_array_equal(scales, sizes.ravel())


@pytest.mark.parametrize("bits", [4, 8])
def test_block_weights_take_the_better_of_two_scales(bits: int):
    """No block is further from its weights than with its largest one at the end of a symmetric grid."""
    half = 1 << (bits - 1)
    blocks = np.random.default_rng(1).normal(size=(100, 32)).astype(np.float32)
    values, scales = pack(np.ascontiguousarray(blocks.T), bits=bits)
    whole = values if bits == 8 else np.stack([values & 15, values >> 4], axis=-1)
    restored = (whole.reshape(100, 32).astype(np.float32) - half) * scales[:, None]
    symmetric = np.abs(blocks).max(axis=1, keepdims=True) / (half - 1)
    errors = [np.square(it - blocks).sum(axis=1) for it in (restored, np.rint(blocks / symmetric) * symmetric)]
    assert (errors[0] <= errors[1] * 1.0001).all()
    assert errors[0].sum() < 0.95 * errors[1].sum()


def test_block_weights_never_run_at_accuracy_level_0():
    """There the 8-bit operator was 9 to 25 times slower than fp32."""
    model = run(recipes.passes("weight-only-8bit", []), deeper())
    levels = [it.i for node in model.graph.node for it in node.attribute if it.name == "accuracy_level"]
    assert levels == [4, 4]


def test_the_node_that_suffers_most_stays_in_float():
    """A product whose inputs have an outlier among small values loses most: mixed precision leaves that one."""
    model = deeper()
    matrix = next(it for it in model.graph.initializer if it.name == "matrix")
    weights = numpy_helper.to_array(matrix).copy()
    weights[:, 0] *= 3000  # one output of the first product, so one input of the second, drowns the others
    matrix.CopyFrom(numpy_helper.from_array(weights, "matrix"))
    second = next(it for it in model.graph.initializer if it.name == "second")
    quiet = numpy_helper.to_array(second).copy()
    quiet[0] = 0
    second.CopyFrom(numpy_helper.from_array(quiet, "second"))
    mixed = run(recipes.passes("dynamic-s8-mixed", [IDS]), model)
    assert [node.name for node in mixed.graph.node if node.op_type == "MatMul"] == ["product_2"]


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [([0.0, 9.0, 0.5], [1]), ([4.0, 4.0, 4.0, 4.0], [0, 1]), ([0.0, 0.0], [0]), ([1.0], [0])],
)
def test_the_fewest_groups_that_carry_the_error_stay_in_float(errors: list[float], chosen: list[int]):
    """One that carries nine tenths is enough; never more than half."""
    assert worst(errors) == chosen


def test_groups_are_few_and_lose_no_node():
    """Time is bounded by the number of groups, however many nodes there are."""
    nodes = [f"n{index}" for index in range(100)]
    groups = group(nodes)
    assert len(groups) == GROUPS_MAX
    assert [name for group in groups for name in group] == nodes


@pytest.mark.parametrize("turned", [0, 1])
def test_weights_have_a_scale_for_each_output_however_they_lie(tmp_path: Path, turned: int):
    """A Gemm's too, turned or not: outputs of very unequal size keep their digits."""
    matrix = np.random.default_rng(3).standard_normal((COLUMNS, OUT), dtype=np.float32)
    matrix *= np.geomspace(0.001, 1, OUT, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "matrix"], ["y"], "product", transB=turned)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUT])],
        [numpy_helper.from_array(np.ascontiguousarray(matrix.T) if turned else matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(4).standard_normal((8, COLUMNS), dtype=np.float32)
    found = answer(run(recipes.passes("weight-only", []), model), tmp_path, {"x": x})
    expected = x @ matrix
    assert (np.abs(found - expected).max(axis=0) / np.abs(expected).max(axis=0)).max() < 0.02


def test_a_small_row_is_stored_as_exactly_as_a_large_one(tmp_path: Path):
    """With one scale for the whole table the first rows, a hundredth of the last in size, would be all but lost."""
    expected = answer(embedder(), tmp_path / "fp32", IDS)[0]
    found = answer(run(recipes.passes("weight-only", []), embedder()), tmp_path / "int8", IDS)[0]
    assert min(cosine(one, other) for one, other in zip(found, expected, strict=True)) > 0.999


def test_an_embedding_table_is_stored_by_row():
    """Int8 rows and one scale each; no float table is left."""
    model = run(recipes.passes("weight-only", []), embedder())
    stored = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    assert stored["embedding_rows_table_values"] == (TensorProto.INT8, (ROWS, COLUMNS))
    assert stored["embedding_rows_table_scales"] == (TensorProto.FLOAT, (ROWS, 1))
    assert "table" not in stored


def test_a_table_that_is_multiplied_too_stays_as_it_is():
    """A table shared with a product (tied weights) has another use than looking up rows."""
    model = embedder()
    model.graph.node.append(helper.make_node("Transpose", ["table"], ["turned"], "turn"))
    model.graph.node.append(helper.make_node("MatMul", ["rows", "turned"], ["logits"], "tied"))
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    model = run([recipes.RowEmbeddings()], model)
    assert "table" in {tensor.name for tensor in model.graph.initializer}


def test_a_reduced_range_stays_within_seven_bits():
    """The weights that a CPU without VNNI adds up in 16 bits must not reach 8 bits."""
    model = run(recipes.passes("dynamic-s8-reduced", []), embedder())
    weights = next(numpy_helper.to_array(it) for it in model.graph.initializer if it.name.startswith("matrix_quant"))
    assert weights.dtype == np.int8
    assert 48 < np.abs(weights.astype(int)).max() <= 64


def test_a_batch_norm_that_cannot_be_folded_stays_in_float(tmp_path: Path):
    """Its scale is an input, no constant; the convolution before it is quantized all the same."""
    values = np.random.default_rng(0)
    weights = values.standard_normal((16, 16, 3, 3), dtype=np.float32)
    constants = {"w": weights, "shift": np.zeros(16, np.float32), "var": np.ones(16, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "shift", "var"], ["y"], "norm"),
    ]
    graph = helper.make_graph(
        nodes,
        "normed",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 4, 4]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, [16]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 4, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = {"x": values.standard_normal((1, 16, 4, 4), dtype=np.float32), "scale": np.ones(16, np.float32)}
    expected = answer(onnx.ModelProto.FromString(model.SerializeToString()), tmp_path / "fp32", x)
    for recipe in ("static-s8", "weight-only"):
        found = run(recipes.passes(recipe, [x]), onnx.ModelProto.FromString(model.SerializeToString()))
        assert has(found, "BatchNormalization")
        assert TensorProto.INT8 in {it.data_type for it in found.graph.initializer}
        assert cosine(answer(found, tmp_path / recipe, x).ravel(), expected.ravel()) > 0.999


def value(name: str, *shape: int | str, of: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, of, shape)


def branches() -> onnx.ModelProto:
    """Multiply by a matrix in either branch of an If, each with a copy of its own; one adds a number."""
    matrix = np.random.default_rng(5).standard_normal((COLUMNS, OUT), dtype=np.float32)

    def branch(name: str, added: float) -> onnx.GraphProto:
        constants = {"matrix": matrix, "added": np.float32([added])}
        nodes = [
            helper.make_node("Constant", [], [f"{name}_{it}"], value=numpy_helper.from_array(constant, it))
            for it, constant in constants.items()
        ]
        nodes += [
            helper.make_node("MatMul", ["x", f"{name}_matrix"], [f"{name}_product"]),
            helper.make_node("Add", [f"{name}_product", f"{name}_added"], [f"{name}_y"]),
        ]
        return helper.make_graph(nodes, name, [], [value(f"{name}_y", 1, OUT)])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("yes", 1.0), else_branch=branch("no", 0.0))
    inputs = [value("x", 1, COLUMNS), value("c", of=TensorProto.BOOL)]
    graph = helper.make_graph([node], "branches", inputs, [value("y", 1, OUT)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("recipe", ["weight-only", "weight-only-fp16"])
@pytest.mark.parametrize("taken", [True, False])
def test_weights_inside_branches_are_quantized_and_stored_once(tmp_path: Path, recipe: str, *, taken: bool):
    """silero-vad is one If over two networks; folding copies weights into every branch that uses them."""
    x = {"x": np.linspace(-1, 1, COLUMNS, dtype=np.float32)[None], "c": np.array(taken)}
    expected = answer(branches(), tmp_path / "fp32", x)
    model = run(recipes.passes(recipe, []), branches())
    stored = [it.data_type for it in model.graph.initializer if tuple(it.dims) == (COLUMNS, OUT)]
    assert stored == [TensorProto.INT8 if recipe == "weight-only" else TensorProto.FLOAT16]
    assert model.ByteSize() < 0.5 * branches().ByteSize()
    found = answer(model, tmp_path / "small", x)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def recurrent(operator: str, gates: int) -> onnx.ModelProto:
    """An LSTM or GRU in two directions over a sequence of 9."""
    values = np.random.default_rng(6)
    hidden = 32
    weights = values.standard_normal((2, gates * hidden, COLUMNS), dtype=np.float32) / 8
    again = values.standard_normal((2, gates * hidden, hidden), dtype=np.float32) / 6
    node = helper.make_node(operator, ["x", "w", "r"], ["y"], direction="bidirectional", hidden_size=hidden)
    tensors = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(again, "r")]
    graph = helper.make_graph([node], operator, [value("x", 9, 1, COLUMNS)], [value("y", 9, 2, 1, hidden)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("operator", "gates", "recipe"),
    [("LSTM", 4, "weight-only"), ("GRU", 3, "weight-only"), ("LSTM", 4, "dynamic-s8"), ("LSTM", 4, "dynamic-u8")],
)
def test_recurrent_layers_are_quantized(tmp_path: Path, operator: str, gates: int, recipe: str):
    """Both matrices, of the input and of the recurrence; no float weight of theirs is left."""
    x = {"x": np.random.default_rng(7).standard_normal((9, 1, COLUMNS), dtype=np.float32)}
    expected = answer(recurrent(operator, gates), tmp_path / "fp32", x)
    model = run(recipes.passes(recipe, []), recurrent(operator, gates))
    assert model.ByteSize() < 0.35 * recurrent(operator, gates).ByteSize()
    found = answer(model, tmp_path / "int8", x)
    assert cosine(found.ravel(), expected.ravel()) > 0.999


@pytest.mark.parametrize("recipe", ["dynamic-s8", "dynamic-s8-mixed", "weight-only-8bit", "weight-only"])
def test_weights_of_16_bits_are_named_as_the_reason(recipe: str):
    """They were refused as "a node has no name"."""
    model = deeper()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(UsageError, match="its weights have 16 bits; quantization starts from float32"):
        run(recipes.passes(recipe, [IDS]), model)


def test_static_needs_real_data():
    """Without calibration inputs the pass refuses; it never makes any up."""
    with pytest.raises(UsageError, match="no calibration data"):
        run(recipes.passes("static-s8", []), embedder())


def test_static_quantizes_activations():
    """With data, activations are quantized by the ranges seen."""
    assert has(run(recipes.passes("static-s8", [IDS]), embedder()), "QuantizeLinear")


def test_a_model_with_nothing_to_quantize_is_refused():
    """An addition has no weights worth storing in int8."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"], "add")],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for recipe in ("dynamic-s8", "weight-only"):
        with pytest.raises(UsageError) as caught:
            run(recipes.passes(recipe, []), model)
        assert caught.value.code == "model-unsupported"


def test_offsets_are_aligned_and_equal_between_versions(tmp_path: Path):
    """Two trainings of one architecture differ in bytes, not in where their tensors lie."""
    offsets = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        built = onnx_layout.write(embedder(seed), folder, recipe="none", signature=SIGNATURE)
        loaded = onnx.load(built.path, load_external_data=False)
        entries = [{it.key: it.value for it in tensor.external_data} for tensor in loaded.graph.initializer]
        offsets.append([(int(it["offset"]), int(it["length"])) for it in entries])
    assert offsets[0] == offsets[1]
    for offset, length in offsets[0]:
        is_large = length >= onnx_layout.PAGE_MIN_BYTES
        assert offset % (onnx_layout.PAGE_BYTES if is_large else onnx_layout.LINE_BYTES) == 0
    assert (tmp_path / "0/model.onnx").read_bytes() == (tmp_path / "1/model.onnx").read_bytes()
    assert (tmp_path / "0/model.weights").read_bytes() != (tmp_path / "1/model.weights").read_bytes()


def test_nothing_of_the_exporter_s_machine_stays_in_the_file(tmp_path: Path):
    """Doc strings and metadata carry paths and stack traces of where a model was exported."""
    model = embedder()
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "/home/somebody/train.py"
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "trace", "/home/somebody/train.py"
    onnx_layout.write(model, tmp_path, recipe="none", signature=SIGNATURE)
    assert b"somebody" not in (tmp_path / "model.onnx").read_bytes()


def test_convolution_beside_dynamic_products_is_stored_in_int8_and_counted(tmp_path: Path):
    """Its 9,216 weights take a byte each in the file, and four once they are loaded."""
    chance = np.random.default_rng(0)
    kernel = chance.standard_normal((64, 16, 3, 3), dtype=np.float32)
    matrix = chance.standard_normal((64, 32), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["seen"], "conv"),
            helper.make_node("Flatten", ["seen"], ["flat"], "flatten"),
            helper.make_node("MatMul", ["flat", "matrix"], ["y"], "product"),
        ],
        "both",
        [value("x", 1, 16, 3, 3)],
        [value("y", 1, 32)],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = {"x": chance.standard_normal((1, 16, 3, 3), dtype=np.float32)}
    quantized = run(recipes.passes("dynamic-s8", ()), copy.deepcopy(model))
    assert has(quantized, "MatMulInteger")
    floats = [it for it in quantized.graph.initializer if it.data_type == TensorProto.FLOAT]
    assert max(int(np.prod(it.dims)) for it in floats) <= 64
    assert restored_bytes(quantized) == 3 * kernel.size
    found, expected = (answer(it, tmp_path, inputs).ravel() for it in (quantized, model))
    assert cosine(found, expected) > 0.999


def test_weights_of_16_bits_are_half_as_large_and_as_good(tmp_path: Path):
    """The tables too; the answers differ in the fourth digit."""
    model = run(recipes.passes("weight-only-fp16", []), embedder())
    assert {it.data_type for it in model.graph.initializer} == {TensorProto.FLOAT16}
    expected = answer(embedder(), tmp_path / "fp32", IDS)
    assert answer(model, tmp_path / "half", IDS) == pytest.approx(expected, rel=1e-2, abs=1e-2)


def test_what_16_bits_can_not_hold_is_refused():
    """An infinity would be stored in its place."""
    model = embedder()
    matrix = numpy_helper.to_array(model.graph.initializer[1]) * np.float32(1e5)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(matrix, "matrix"))
    with pytest.raises(UsageError, match="16 bits can't hold"):
        run(recipes.passes("weight-only-fp16", []), model)


def detector() -> onnx.ModelProto:
    """Two convolutions: boxes of hundreds of pixels and probabilities, concatenated behind them."""
    chance = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "places"], ["near"], "places"),
            helper.make_node("Conv", ["x", "classes"], ["seen"], "classes"),
            helper.make_node("Mul", ["near", "pixels"], ["boxes"], "scaled"),
            helper.make_node("Sigmoid", ["seen"], ["scores"], "sigmoid"),
            helper.make_node("Concat", ["boxes", "scores"], ["y"], "both", axis=1),
        ],
        "detector",
        [value("x", 1, 8, 6, 6)],
        [value("y", 1, 7, 6, 6)],
        [
            numpy_helper.from_array(chance.standard_normal((4, 8, 1, 1), dtype=np.float32), "places"),
            numpy_helper.from_array(chance.standard_normal((3, 8, 1, 1), dtype=np.float32), "classes"),
            numpy_helper.from_array(np.float32(100), "pixels"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_static_keeps_probabilities_that_are_concatenated_with_boxes(tmp_path: Path):
    """One scale of int8 for both would round the probabilities to 0 or more than 1."""
    chance = np.random.default_rng(1)
    rows = [{"x": chance.standard_normal((1, 8, 6, 6), dtype=np.float32)} for _ in range(8)]
    quantized = run(recipes.passes("static-s8", rows), detector())
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) >= 1
    found, expected = (answer(it, tmp_path, rows[0])[:, 4:] for it in (quantized, detector()))
    assert cosine(found.ravel(), expected.ravel()) > 0.999


def test_recurrent_layer_beside_static_convolutions_is_stored_in_int8_and_counted(tmp_path: Path):
    """An LSTM of 6,144 weights computes in float under static int8; a byte each in the file, four in memory."""
    chance = np.random.default_rng(0)
    weights = {
        "kernel": chance.standard_normal((16, 8, 3), dtype=np.float32),
        "w": chance.standard_normal((1, 128, 16), dtype=np.float32) / 4,
        "r": chance.standard_normal((1, 128, 32), dtype=np.float32) / 4,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["seen"], "conv", pads=[1, 1]),
            helper.make_node("Transpose", ["seen"], ["steps"], "steps", perm=[2, 0, 1]),
            helper.make_node("LSTM", ["steps", "w", "r"], ["y"], "lstm", hidden_size=32),
        ],
        "speech",
        [value("x", 1, 8, 10)],
        [value("y", 10, 1, 1, 32)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = [{"x": chance.standard_normal((1, 8, 10), dtype=np.float32)} for _ in range(8)]
    quantized = run(recipes.passes("static-s8", rows), copy.deepcopy(model))
    floats = [it for it in quantized.graph.initializer if it.data_type == TensorProto.FLOAT]
    assert max(int(np.prod(it.dims)) for it in floats) <= 128
    assert restored_bytes(quantized) == 3 * (weights["w"].size + weights["r"].size)
    found, expected = (answer(it, tmp_path, rows[0]).ravel() for it in (quantized, model))
    assert cosine(found, expected) > 0.99


@pytest.mark.parametrize("recipe", ["static-s8-entropy", "static-s8-percentile"])
def test_static_calibrates_on_rows_of_different_lengths(tmp_path: Path, recipe: str):
    """Sounds and texts have any length; onnxruntime's histograms take rows of one shape alone."""
    chance = np.random.default_rng(0)
    kernel = chance.standard_normal((16, 8, 3), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "kernel"], ["y"], "conv")],
        "any length",
        [value("x", 1, 8, "length")],
        [value("y", 1, 16, "shorter")],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = [{"x": chance.standard_normal((1, 8, length), dtype=np.float32)} for length in (20, 35, 50)]
    quantized = run(recipes.passes(recipe, rows), copy.deepcopy(model))
    found, expected = (answer(it, tmp_path, rows[0]).ravel() for it in (quantized, model))
    assert cosine(found, expected) > 0.95


def test_weights_that_dynamic_makes_inside_a_branch_are_stored_in_int8(tmp_path: Path):
    """A Gemm in a branch turns into a product there, with a copy of its weights; openWakeWord's have such a branch."""
    chance = np.random.default_rng(0)
    matrices = {name: chance.standard_normal((64, 64), dtype=np.float32) for name in ("first", "second")}
    yes = helper.make_graph(
        [helper.make_node("Gemm", ["seen", "second"], ["yes_y"], "gemm", transB=1)], "yes", [], [value("yes_y", 1, 64)]
    )
    no = helper.make_graph([helper.make_node("Identity", ["seen"], ["no_y"], "same")], "no", [], [value("no_y", 1, 64)])
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["seen"], "product"),
            helper.make_node("If", ["c"], ["y"], "choice", then_branch=yes, else_branch=no),
        ],
        "verified",
        [value("x", 1, 64), value("c", of=TensorProto.BOOL)],
        [value("y", 1, 64)],
        [numpy_helper.from_array(array, name) for name, array in matrices.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = {"x": chance.standard_normal((1, 64), dtype=np.float32), "c": np.array(True)}
    quantized = run(recipes.passes("dynamic-s8", ()), copy.deepcopy(model))
    assert quantized.ByteSize() < 0.5 * model.ByteSize()
    found, expected = (answer(it, tmp_path, inputs).ravel() for it in (quantized, model))
    assert cosine(found, expected) > 0.99


def test_small_tensors_are_not_padded_to_pages(tmp_path: Path):
    """Twenty tensors of 2 kB take 40 kB; a page for each made them twice as large."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "small",
        [value("x", 1)],
        [value("y", 1)],
        [numpy_helper.from_array(np.full(500, at, np.float32), f"tensor{at}") for at in range(20)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx_layout.write(model, tmp_path, recipe="none", signature=SIGNATURE)
    assert (tmp_path / onnx_layout.WEIGHTS).stat().st_size < 20 * (2000 + onnx_layout.LINE_BYTES)


def test_entropy_cuts_the_range_that_a_rare_value_spans():
    """One value in 10,000 lies at 60, the rest within 4: int8 levels go to the rest. minmax keeps the whole range."""
    chance = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "kernel"], ["y"], "conv")],
        "rare",
        [value("x", 1, 8, 10_000)],
        [value("y", 1, 16, 10_000)],
        [numpy_helper.from_array(chance.standard_normal((16, 8, 1), dtype=np.float32), "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = [{"x": chance.standard_normal((1, 8, 10_000), dtype=np.float32)}]
    rows[0]["x"][0, 0, 0] = 60
    scales = {}
    for recipe in ("static-s8", "static-s8-entropy"):
        quantized = run(recipes.passes(recipe, rows), copy.deepcopy(model))
        (scale,) = (it for it in quantized.graph.initializer if it.name == "x_scale")
        scales[recipe] = float(numpy_helper.to_array(scale))
    assert scales["static-s8-entropy"] < 0.5 * scales["static-s8"]


@pytest.mark.parametrize("recipe", ["weight-only-8bit", "weight-only-4bit"])
def test_recurrent_layer_beside_block_weights_is_stored_in_int8_and_counted(recipe: str):
    """Resemblyzer is three LSTMs and one product; in float they were 97 % of the file."""
    chance = np.random.default_rng(0)
    weights = {
        "w": chance.standard_normal((1, 128, 16), dtype=np.float32),
        "r": chance.standard_normal((1, 128, 32), dtype=np.float32),
        "matrix": chance.standard_normal((32, 32), dtype=np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", "w", "r"], ["seen"], "lstm", hidden_size=32),
            helper.make_node("MatMul", ["seen", "matrix"], ["y"], "product"),
        ],
        "voice",
        [value("x", 10, 1, 16)],
        [value("y", 10, 1, 1, 32)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quantized = run(recipes.passes(recipe, ()), model)
    assert has(quantized, "MatMulNBits")
    assert restored_bytes(quantized) == 3 * (weights["w"].size + weights["r"].size)
