"""A model loaded from a Hugging Face folder, an `.onnx` or `.pt2` file, or a Python function. Dispatch only.

Models are read from this disk alone, without access to a hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edgeml import peft_folder
from edgeml.exporters import not_a_model
from edgeml.exporters.source import Source
from edgeml.pipeline.request import ExportRequest
from edgeml_core import names

_FUNCTION: Final = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")
#: Characters that a release's name can't have.
_UNFIT: Final = re.compile(r"[^a-z0-9_]+")


def load(request: ExportRequest, work: Path) -> Source:
    """Load the model that the request names.

    Args:
        request: its `model` or `in_memory`, and its `task`, are read.
        work: a folder for temporary files.

    Raises:
        UsageError: `model-unreadable`, `model-unsafe` or `model-unsupported`.
    """
    if request.in_memory is not None:
        from edgeml.exporters import function as functions  # noqa: PLC0415 -- imports torch

        return functions.of_model(request.in_memory, request.task, work)
    if function := _FUNCTION.fullmatch(request.model):
        from edgeml.exporters import function as functions  # noqa: PLC0415 -- imports torch

        return functions.load(Path(function["file"]), function["function"], request.task, work)
    path = Path(request.model)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise not_a_model.absent(request.model, error) from None
    if path.is_dir():
        not_a_model.check_folder(path)
        if peft_folder.is_adapter(path):
            peft_folder.base(path)
        from edgeml.exporters.huggingface import model  # noqa: PLC0415 -- imports torch and transformers

        return model.load(path, request.task, work)
    if path.suffix == ".onnx" and path.is_file():
        not_a_model.check_file(path)
        from edgeml.exporters import onnx_file  # noqa: PLC0415 -- imports onnx

        return onnx_file.load(path, request.task, work)
    if path.suffix == ".pt2" and path.is_file():
        not_a_model.check_file(path)
        from edgeml.exporters import exported_program  # noqa: PLC0415 -- imports torch

        return exported_program.load(path, request.task)
    raise not_a_model.unknown(path)


def release_name(request: ExportRequest, source: Source) -> str:
    """Return the requested name, or one made of the model's.

    Raises:
        UsageError: `usage`, when the model's name has no letter or digit to make one of.
    """
    derived = _UNFIT.sub("-", source.name.lower())[: names.NAME_MAX_CHARS].strip("-_")
    return names.require_name(request.name or derived, "model name (give one with --name)")
