"""A recipe applied to an fp32 model, by the quantizer of its file format. Importing this imports no quantizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeml.exporters.source import Built
from edgeml_core.profile import RecipeName
from edgeml_runtime.tensors import Array


def apply(name: RecipeName, model: Built, folder: Path, calibration: Sequence[Mapping[str, Array]]) -> Built:
    """Quantize a model.

    Args:
        name: a recipe of the model's file format.
        model: in fp32.
        folder: empty, for the result and a copy of the model's assets.
        calibration: arrays by tensor name, with the dtypes and shapes of the model's inputs; may be empty.

    Raises:
        UsageError: `model-unsupported`, when the model has nothing to quantize or the quantizer fails.
    """
    own = {model.model, *model.weights}
    for asset in model.folder.iterdir():
        if asset.name not in own:
            shutil.copyfile(asset, folder / asset.name)
    if model.file_format == "onnx":
        from edgeml.quantize.onnx import recipes  # noqa: PLC0415 -- imports onnx and onnxruntime's quantizer

        return recipes.apply(name, model, folder, calibration)
    from edgeml.quantize import tflite  # noqa: PLC0415 -- imports ai-edge-quantizer

    return tflite.apply(name, model, folder, calibration)
