"""The adapter to ai-edge-quantizer: the TFLite recipes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer import recipe as recipes
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from edgeml.exporters.source import Built
from edgeml_core.errors import UsageError
from edgeml_core.profile import RecipeName
from edgeml_runtime.tensors import Array


def _half() -> Any:  # noqa: ANN401 -- the quantizer's recipes have no type
    """Make the recipe for weights of 16 bits that run as fp32; the library has none."""
    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


_RECIPES: Final[dict[RecipeName, Any]] = {
    "dynamic": recipes.dynamic_wi8_afp32,
    "static": recipes.static_wi8_ai8,
    "weight-only": recipes.weight_only_wi8_afp32,
    "weight-only-fp16": _half,
}


def apply(name: RecipeName, model: Built, folder: Path, calibration: Sequence[Mapping[str, Array]]) -> Built:
    """Quantize a model. See `edgeml.quantize.apply`."""
    result = replace(model, recipe=name, folder=folder)
    if name == "none":
        shutil.copyfile(model.path, result.path)
        return result
    try:
        tool = quantizer.Quantizer(str(model.path), _RECIPES[name]())
        # Inputs and outputs of the model stay in float.
        for edge in (
            qtyping.TFLOperationName.INPUT,
            qtyping.TFLOperationName.OUTPUT,
        ):
            tool.update_quantization_recipe(".*", edge, algorithm_key=AlgorithmName.NO_QUANTIZE)
        ranges = tool.calibrate(_by_signature(model.path, calibration)) if tool.need_calibration else None
        tool.quantize(ranges).export_model(str(result.path), overwrite=True)
    except Exception as error:  # the quantizer lets errors of its steps pass
        hint = "ship fp32 with --quantize none"
        raise UsageError("model-unsupported", f"this recipe can't quantize the model: {error}", hint) from error
    return result


def _by_signature(path: Path, calibration: Sequence[Mapping[str, Array]]) -> dict[str, list[dict[str, Array]]]:
    """Sort calibration inputs by the signature whose shapes they have."""
    interpreter = Interpreter(model_path=str(path))
    shapes = {
        name: {
            key: tuple(detail["shape"])
            for key, detail in interpreter.get_signature_runner(name).get_input_details().items()
        }
        for name in interpreter.get_signature_list()
    }
    return {
        name: [dict(inputs) for inputs in calibration if {key: it.shape for key, it in inputs.items()} == expected]
        for name, expected in shapes.items()
    }
