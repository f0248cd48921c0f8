"""The ONNX recipes: each a list of passes, then the final layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import onnx

from edgeml.exporters import onnx_layout
from edgeml.exporters.source import Built
from edgeml.quantize.onnx.dynamic import Dynamic
from edgeml.quantize.onnx.embeddings import RowEmbeddings
from edgeml.quantize.onnx.gemm import GemmAsMatMul
from edgeml.quantize.onnx.graph_pass import Pass, run
from edgeml.quantize.onnx.half import HalfWeights
from edgeml.quantize.onnx.mixed import Mixed
from edgeml.quantize.onnx.nbits import BlockWeights
from edgeml.quantize.onnx.prepare import Prepare
from edgeml.quantize.onnx.static import Method, Static
from edgeml.quantize.onnx.weight_only import WeightOnly
from edgeml.quantize.recipes import is_mixed
from edgeml_core.profile import Recipe
from edgeml_runtime.tensors import Array

NODES_SHOWN_MAX: Final = 8
_METHODS: Final[dict[str, Method]] = {"-entropy": "entropy", "-percentile": "percentile"}


def apply(recipe: Recipe, model: Built, folder: Path, calibration: Sequence[Mapping[str, Array]]) -> Built:
    """The quantized model, in its final layout. See `edgeml.quantize.apply`."""
    quantized = run(passes(recipe, calibration), onnx.load(model.path))
    built = onnx_layout.write(quantized, folder, recipe=recipe, signature=model.signature)
    return replace(built, notes=tuple(_left_in_float(quantized))) if is_mixed(recipe) else built


def _left_in_float(model: onnx.ModelProto) -> Iterator[str]:
    """What the card says of the nodes with constant weights that a mixed recipe left out."""
    constant = {tensor.name for tensor in model.graph.initializer}
    left = [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm") and len(node.input) > 1 and node.input[1] in constant
    ]
    shown = ", ".join(left[:NODES_SHOWN_MAX]) + (", ..." if len(left) > NODES_SHOWN_MAX else "")
    yield f"{len(left)} nodes that were measured to suffer most from int8 stay in fp32: {shown}"


def passes(recipe: Recipe, samples: Sequence[Mapping[str, Array]]) -> list[Pass]:
    """What a recipe does, in order. Embedding tables go first: what they look up is no weight of a product."""
    prepare: list[Pass] = [Prepare(), RowEmbeddings()]
    reduced = "-reduced" in recipe
    match recipe.removesuffix("-mixed").replace("-reduced", ""), is_mixed(recipe):
        case "none", _:
            return []
        case ("weight-only" | "weight-only-fp16") as stored, _:
            return [Prepare(), HalfWeights()] if stored.endswith("fp16") else [*prepare, WeightOnly()]
        case ("weight-only-4bit" | "weight-only-8bit") as blocks, _:
            return [*prepare, GemmAsMatMul(), BlockWeights(bits=4 if blocks.endswith("4bit") else 8)]
        case ("dynamic-s8" | "dynamic-u8") as dynamic, mixed:
            make = partial(_dynamic, dynamic == "dynamic-s8", reduced)
            if not mixed:
                return [*prepare, make(())]
            return [*prepare, GemmAsMatMul(), Mixed(quantizer=make, samples=samples, operators=("MatMul",))]
        case static, mixed:
            make = partial(_static, _METHODS.get(static.removeprefix("static-s8"), "minmax"), reduced, samples)
            operators = ("Conv", "MatMul", "Gemm")
            return [*prepare, Mixed(quantizer=make, samples=samples, operators=operators) if mixed else make(())]


def _dynamic(signed: bool, reduced: bool, excluded: Sequence[str]) -> Pass:  # noqa: FBT001 -- bound by partial
    return Dynamic(signed=signed, reduced=reduced, excluded=excluded)


def _static(
    method: Method,
    reduced: bool,  # noqa: FBT001 -- bound by partial
    calibration: Sequence[Mapping[str, Array]],
    excluded: Sequence[str],
) -> Pass:
    return Static(reduced=reduced, calibration=calibration, method=method, excluded=excluded)
