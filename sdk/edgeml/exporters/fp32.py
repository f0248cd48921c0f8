"""The fp32 model in a file format, with the assets beside it. Converters are imported when they are needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeml.exporters.source import FLOAT, Built, Source
from edgeml.workspace import quiet
from edgeml_core.manifest import Format


def write(source: Source, file_format: Format, folder: Path) -> Built:
    """Write the fp32 model and its assets to an empty folder, with temporary files beside it.

    Raises:
        UsageError: `model-unsupported`, when the model can't be converted to the format.
    """
    for name, asset in source.assets.items():
        shutil.copyfile(asset, folder / name)
    with quiet(folder.parent):
        if file_format == "tflite":
            from edgeml.exporters import to_tflite  # noqa: PLC0415 -- imports litert-torch

            return to_tflite.write(source, folder)
        from edgeml.exporters import onnx_layout, to_onnx  # noqa: PLC0415 -- imports torch

        model = to_onnx.convert(source, folder.parent)
        return onnx_layout.write(model, folder, recipe=FLOAT, signature=to_onnx.signature(source, model))
