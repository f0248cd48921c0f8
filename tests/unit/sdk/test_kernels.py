"""The kernels on a language model's card: found by the runtime on this CPU, and worded without guesses.

And the bytes that the same products read.
"""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeml.check.weight_bytes import weight_bytes
from edgeml.exporters.source import Built, Signature
from edgeml.pipeline import kernels
from edgeml.quantize.onnx.nbits import BlockWeights
from edgeml_core.card import Kernels, KernelUse
from edgeml_core.manifest import Manifest
from edgeml_core.profile import RecipeName
from edgeml_runtime.engines import OperatorRun
from edgeml_runtime.verify.kernels import KernelReport, products, report
from support import task_models, tiny_models

VOCABULARY, WIDTH = 40, 64
#: Products of the language model below.
WIDE, NARROW = WIDTH * (WIDTH - 1), (WIDTH - 1) * VOCABULARY
#: Runs: a block product, a product in float, one of two activations, an integer product, and a lookup.
BLOCKS = OperatorRun("MatMulNBits", (("float", (1, 1, 64)), ("float", (192,))), (1, 1, 32), 768)
UNPACKED = OperatorRun("MatMulNBits", (("float", (1, 1, 64)), ("uint8", (32, 2, 32)), ("float", (64,))), (1, 1, 32), 9)
FLOATS = OperatorRun("MatMul", (("float", (1, 1, 64)),), (1, 1, 16), 0)
SCORES = OperatorRun("MatMul", (("float", (1, 4, 1, 16)), ("float", (1, 4, 16, 9))), (1, 4, 1, 9), 0)
INTEGERS = OperatorRun("MatMulIntegerToFloat", (("uint8", (1, 1, 64)), ("float", ())), (1, 1, 64), 5)
LOOKUP = OperatorRun("Gather", (("float", (256, 64)), ("int64", (1, 1))), (1, 1, 64), 65536)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """The manifest of a language model without a cache."""
    return task_models.bundle(tmp_path / "writer.edgeml", "text-generation")


def language_model(*, bits: int | None) -> onnx.ModelProto:
    """A table and two products: one of a whole block's width, in blocks of `bits`, and one that stays in float."""
    rng = np.random.default_rng(1)
    sizes = {"table": (VOCABULARY, WIDTH), "wide": (WIDTH, WIDTH - 1), "narrow": (WIDTH - 1, VOCABULARY)}
    tensors = [numpy_helper.from_array(rng.normal(size=it).astype(np.float32), name) for name, it in sizes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "wide"], ["inner"]),
        helper.make_node("MatMul", ["inner", "narrow"], ["logits"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "writer",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [None, None])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, None, VOCABULARY])],
            tensors,
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    return BlockWeights(bits=bits).call(model) if bits else model


def uses(found: KernelReport, manifest: Manifest, recipe: RecipeName = "weight-only-4bit") -> tuple[KernelUse, ...]:
    """What the card has of a report."""
    described = kernels.describe(found, manifest, recipe, cpu="a CPU", how="measured", runtime="1.30.0")
    assert described
    return described.products


def made(*runs: OperatorRun, **changes: bool | None) -> KernelReport:
    """A report of these runs, on a CPU with dot products."""
    whole = KernelReport(
        operators=len(runs),
        products=tuple(products(runs)),
        rows_in_int8=True,
        is_exact=True,
        has_dot_products=True,
    )
    return msgspec.structs.replace(whole, **changes)


@pytest.mark.parametrize("bits", [4, 8])
def test_report_names_the_products_of_a_token(manifest: Manifest, tmp_path: Path, bits: int):
    """By the runtime's own profile: the product in blocks and the one in float, with the numbers that they multiply."""
    onnx.save(language_model(bits=bits), tmp_path / "model.onnx")
    gauge = kernels.gauge(manifest, "weight-only-4bit" if bits == 4 else "weight-only-8bit")
    found = report(tmp_path / "model.onnx", manifest, gauge)
    assert found
    assert [(it.operator, it.dtype, it.count, it.weights) for it in found.products] == [
        ("MatMulNBits", "float", 1, WIDE),
        ("MatMul", "float", 1, NARROW),
    ]
    assert found.operators == 3


@pytest.mark.parametrize("level", [0, 4])
def test_gauge_shows_how_this_cpu_multiplies(manifest: Manifest, tmp_path: Path, level: int):
    """The same product tells int8 from fp32: at accuracy level 0 onnxruntime multiplies in fp32 on every CPU."""
    onnx.save(language_model(bits=4), tmp_path / "model.onnx")
    gauge = onnx.load_from_string(kernels.gauge(manifest, "weight-only-4bit"))
    (node,) = (it for it in gauge.graph.node if it.op_type == "MatMulNBits")
    (attribute,) = (it for it in node.attribute if it.name == "accuracy_level")
    attribute.i = level
    found = report(tmp_path / "model.onnx", manifest, gauge.SerializeToString())
    assert found
    rounds = level == 4 and _rounds_to_int8(tmp_path / "model.onnx")
    assert found.rows_in_int8 == rounds
    if platform.machine() == "x86_64":
        assert found.has_dot_products == found.is_exact


def _rounds_to_int8(path: Path) -> bool:
    """Whether this CPU gives the model other logits than the arithmetic of its stored numbers does."""
    import onnxruntime  # noqa: PLC0415 - after its telemetry was switched off

    model = onnx.load(path)
    weights = {it.name: numpy_helper.to_array(it) for it in model.graph.initializer}
    rows: NDArray[np.float32] = weights["table"][:1]
    packed, scales = weights["wide_blocks"].reshape(WIDTH - 1, -1), weights["wide_scales"].reshape(WIDTH - 1, -1)
    values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(WIDTH - 1, WIDTH).astype(np.float32) - 8
    expected = rows @ (values * scales.repeat(WIDTH // scales.shape[1], axis=1)).T @ weights["narrow"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": np.zeros((1, 1), np.int64)})
    return float(abs(found[0] - expected).max()) > 1e-4 * float(abs(expected).max())


def test_gauge_is_for_language_models_alone(tmp_path: Path, manifest: Manifest):
    """The cards of other models name no kernels; nor is there a report of a runtime without a profile."""
    assert kernels.gauge(tiny_models.tiny_text_bundle(tmp_path / "mood.edgeml"), "dynamic-s8") == b""
    litert = msgspec.structs.replace(manifest, runtime=msgspec.structs.replace(manifest.runtime, engine="litert"))
    assert kernels.gauge(litert, "dynamic") == b""
    assert report(tmp_path / "model.tflite", litert, b"gauge") is None


def test_shares_are_of_the_numbers_multiplied(manifest: Manifest):
    """Lookups and products of two activations multiply no weights."""
    found = uses(made(BLOCKS, BLOCKS, FLOATS, SCORES, LOOKUP), manifest)
    assert [(it.operator, it.bits, it.count, it.share) for it in found] == [
        ("MatMulNBits", 4, 2, 0.8),
        ("MatMul", 32, 1, 0.2),
    ]


def test_kernels_of_blocks_follow_the_gauge(manifest: Manifest):
    """A Pi 5, a gateway without VNNI, a Pi 4, and a Pi 4 with 8 bits, for which no kernel packs the weights."""
    assert uses(made(BLOCKS), manifest)[0].kernel == "int8 products, with dot product instructions"
    gateway = made(BLOCKS, is_exact=False, has_dot_products=False)
    assert uses(gateway, manifest)[0].kernel == "int8 products, without dot product instructions"
    board = made(BLOCKS, rows_in_int8=False, has_dot_products=False)
    assert uses(board, manifest)[0].kernel == "fp32 products"
    unpacked = made(UNPACKED, rows_in_int8=False, has_dot_products=False)
    (use,) = uses(unpacked, manifest, "weight-only-8bit")
    assert (use.bits, use.kernel) == (8, "fp32 products, weights unpacked in each run")


def test_kernels_of_integers_follow_their_sums(manifest: Manifest):
    """Sums that saturate are named on the card, since they are another result."""
    assert uses(made(INTEGERS), manifest, "dynamic-s8")[0].kernel == "int8 products, with dot product instructions"
    board = made(INTEGERS, has_dot_products=False)
    assert uses(board, manifest, "dynamic-s8")[0].kernel == "int8 products, without dot product instructions"
    gateway = made(INTEGERS, is_exact=False, has_dot_products=False)
    assert uses(gateway, manifest, "dynamic-s8")[0].kernel == "int8 products, sums in 16 bits that saturate"
    reduced = uses(gateway, manifest, "dynamic-s8-reduced")[0]
    assert reduced.kernel == "int8 products, without dot product instructions"


def test_kernels_of_unsigned_weights_on_x86_are_not_those_of_the_gauge(manifest: Manifest):
    """Its weights are signed; on arm64 the CPU's feature stands for both."""
    for arch, kernel in (
        ("x86_64", "int8 products"),
        ("aarch64", "int8 products, with dot product instructions"),
    ):
        there = msgspec.structs.replace(manifest, cpu=msgspec.structs.replace(manifest.cpu, arch=arch))
        assert uses(made(INTEGERS), there, "dynamic-u8")[0].kernel == kernel


def test_activations_quantized_by_the_product_are_integers(manifest: Manifest):
    """It takes floats, and has packed its weights."""
    run = OperatorRun("DynamicQuantizeMatMul", (("float", (1, 1, 64)), ("float", (8,))), (1, 1, 8), 32)
    (use,) = uses(made(run), manifest, "dynamic-s8")
    assert (use.bits, use.kernel) == (8, "int8 products, with dot product instructions")


def test_kernels_without_evidence_are_left_out(manifest: Manifest):
    """An operator that the runtime made, floats that an option makes shorter, another architecture."""
    assert uses(made(BLOCKS), manifest, "weight-only")[0].kernel == ""
    options = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}
    shorter = msgspec.structs.replace(manifest, runtime=msgspec.structs.replace(manifest.runtime, options=options))
    assert uses(made(FLOATS), shorter)[0].kernel == ""
    assert uses(made(INTEGERS, has_dot_products=None), manifest, "dynamic-s8")[0].kernel == "int8 products"
    assert kernels.describe(made(LOOKUP), manifest, "none", cpu="", how="measured", runtime="") is None


@pytest.mark.parametrize(
    ("recipe", "bits", "expected"),
    [
        ("weight-only-4bit", 4, WIDE // 2 + 4 * WIDE // 64 + 4 * NARROW),
        ("weight-only-8bit", 8, WIDE + 4 * WIDE // 64 + 4 * NARROW),
        ("weight-only", 8, 4 * WIDE + 4 * NARROW),
        ("none", None, 4 * WIDE + 4 * NARROW),
    ],
)
def test_bytes_of_a_token_are_those_in_memory(
    manifest: Manifest, tmp_path: Path, recipe: RecipeName, bits: int | None, expected: int
):
    """Weights and scales of products, but no table of embeddings; weights that run as float are float in memory."""
    signature = Signature(
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        preprocess=manifest.preprocess,
        postprocess=manifest.postprocess,
    )
    built = {}
    for name, each in (("none", None), (recipe, bits)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        onnx.save(language_model(bits=each), folder / "model.onnx")
        built[name] = Built(file_format="onnx", recipe=name, folder=folder, model="model.onnx", signature=signature)
    assert weight_bytes(built[recipe], built["none"]) == expected


def test_summary_is_one_sentence():
    """As `edgeml export` prints it."""
    use = KernelUse(operator="MatMulNBits", bits=4, count=121, share=0.8321, kernel="fp32 products")
    other = KernelUse(operator="MatMul", bits=32, count=1, share=0.1679, kernel="")
    found = Kernels(
        cpu="Cortex-A72", how="emulated", runtime="onnxruntime 1.30.0", operators=452, products=(use, other)
    )
    assert found.summary == (
        "a token takes 452 operators on Cortex-A72, emulated; its weights are multiplied in "
        "121 MatMulNBits (83.2%; 4 bits, fp32 products) and 1 MatMul (16.8%; 32 bits)"
    )
