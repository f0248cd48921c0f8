"""The ONNX recipes: each a list of passes, then the final layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from edgeml.export import onnx_layout
from edgeml.export.source import Built
from edgeml.quantize.onnx_dynamic import Dynamic
from edgeml.quantize.onnx_embeddings import RowEmbeddings
from edgeml.quantize.onnx_pass import Pass, run
from edgeml.quantize.onnx_prepare import Prepare
from edgeml.quantize.onnx_static import Static
from edgeml.quantize.onnx_weights import WeightOnly
from edgeml_core.profile import Recipe
from edgeml_runtime.tensors import Array


def apply(recipe: Recipe, model: Built, folder: Path, calibration: Sequence[Mapping[str, Array]]) -> Built:
    """The quantized model, in its final layout. See `edgeml.quantize.apply`."""
    quantized = run(passes(recipe, calibration), onnx.load(model.path))
    return onnx_layout.write(quantized, folder, recipe=recipe, signature=model.signature)


def passes(recipe: Recipe, calibration: Sequence[Mapping[str, Array]]) -> list[Pass]:
    """What a recipe does, in order. Embedding tables go first: what they look up is no weight of a product."""
    prepare: list[Pass] = [Prepare(), RowEmbeddings()]
    match recipe:
        case "dynamic-s8" | "dynamic-s8-reduced" | "dynamic-u8":
            return [*prepare, Dynamic(signed=recipe != "dynamic-u8", reduced=recipe.endswith("-reduced"))]
        case "static-s8" | "static-s8-reduced":
            return [*prepare, Static(reduced=recipe.endswith("-reduced"), calibration=calibration)]
        case "weight-only":
            return [*prepare, WeightOnly()]
        case _:
            return []
