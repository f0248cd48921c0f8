"""The ONNX recipes: each is a list of passes, then the final layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx

from edgeml.exporters import onnx_layout
from edgeml.exporters.source import Built
from edgeml.quantize import recipes
from edgeml.quantize.onnx.dynamic import Dynamic
from edgeml.quantize.onnx.embeddings import RowEmbeddings
from edgeml.quantize.onnx.gemm import GemmAsMatMul
from edgeml.quantize.onnx.graph_pass import Pass, run
from edgeml.quantize.onnx.half import HalfWeights
from edgeml.quantize.onnx.mixed import Mixed
from edgeml.quantize.onnx.nbits import BlockWeights
from edgeml.quantize.onnx.prepare import Prepare
from edgeml.quantize.onnx.row_scales import RowScales
from edgeml.quantize.onnx.static import Static
from edgeml.quantize.onnx.weight_only import WeightOnly, restored_bytes, restored_names
from edgeml.quantize.recipes import Recipe
from edgeml_core.profile import RecipeName
from edgeml_runtime.tensors import Array

#: Node names in a note on the card; a reader needs a few to see the pattern.
NODES_SHOWN_MAX: Final = 8
#: The operators with constant weights that static quantization takes; dynamic takes the matrix products alone.
_STATIC_OPERATORS: Final = ("Conv", "MatMul", "Gemm")
_DYNAMIC_OPERATORS: Final = ("MatMul",)


def apply(name: RecipeName, model: Built, folder: Path, calibration: Sequence[Mapping[str, Array]]) -> Built:
    """Quantize a model and write it in its final layout. See `edgeml.quantize.apply`."""
    quantized = run(passes(name, calibration), onnx.load(model.path))
    further = 0 if recipes.TABLE[name].runs_as_float else restored_bytes(quantized)
    built = onnx_layout.write(quantized, folder, recipe=name, signature=model.signature)
    built = replace(built, restored_bytes=further)
    return replace(built, notes=tuple(_float_nodes_note(quantized))) if recipes.TABLE[name].mixed else built


def _float_nodes_note(model: onnx.ModelProto) -> Iterator[str]:
    """Write the card's note on the nodes with constant weights that a mixed recipe left out."""
    constant = {tensor.name for tensor in model.graph.initializer} | restored_names(model.graph)
    left = [
        node.name
        for node in model.graph.node
        if node.op_type in _STATIC_OPERATORS and len(node.input) > 1 and node.input[1] in constant
    ]
    names = ", ".join(left[:NODES_SHOWN_MAX]) + (", ..." if len(left) > NODES_SHOWN_MAX else "")
    yield f"{len(left)} nodes that were measured to suffer most from int8 compute in fp32: {names}"


def passes(name: RecipeName, samples: Sequence[Mapping[str, Array]]) -> list[Pass]:
    """List the passes of a recipe, in order.

    Embedding tables come first: a row that a table returns is no weight of a matrix product.

    Args:
        samples: inputs by tensor name, for calibration or to measure how sensitive nodes are.
    """
    recipe = recipes.TABLE[name]
    if recipe.family == "none":
        return []
    if recipe.bits == 16:
        return [Prepare(), HalfWeights()]
    return [Prepare(), RowEmbeddings(), *_int8_passes(recipe, samples)]


def _int8_passes(recipe: Recipe, samples: Sequence[Mapping[str, Array]]) -> list[Pass]:
    if recipe.family == "weight-only":
        return (
            [GemmAsMatMul(), BlockWeights(bits=recipe.bits), WeightOnly(rest=True)] if recipe.blocks else [WeightOnly()]
        )

    def quantizer(excluded: Sequence[str]) -> Pass:
        if recipe.family == "dynamic":
            return Dynamic(signed=recipe.signed, reduced=recipe.reduced, excluded=excluded)
        return Static(reduced=recipe.reduced, calibration=samples, method=recipe.method, excluded=excluded)

    # Convolutions under dynamic int8, recurrent layers under static int8 and what mixed recipes leave compute in float:
    # their weights are stored in int8 all the same.
    rest = WeightOnly(rest=True)
    if recipe.family == "dynamic":
        mixed = [GemmAsMatMul(), Mixed(quantizer=quantizer, samples=samples, operators=_DYNAMIC_OPERATORS)]
        return [*(mixed if recipe.mixed else [quantizer(())]), RowScales(), rest]
    if not recipe.mixed:
        return [quantizer(()), rest]
    return [Mixed(quantizer=quantizer, samples=samples, operators=_STATIC_OPERATORS), rest]
