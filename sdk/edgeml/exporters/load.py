"""A model loaded from a folder, an `.onnx`, `.pt2`, `.keras` or `.gguf` file, or a Python function. Dispatch only.

Models are read from this disk alone, without access to a hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeml import peft_folder, torchvision_operators
from edgeml.exporters import not_a_model
from edgeml.exporters.source import Source
from edgeml.oracle import which_library
from edgeml.pipeline.request import ExportRequest
from edgeml_core import names
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task
from edgeml_core.processing import Classes, TokenClasses

_FUNCTION: Final = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")
#: Characters that a release's name can't have.
_UNFIT: Final = re.compile(r"[^a-z0-9_]+")


def load(request: ExportRequest, work: Path) -> Source:
    """Load the model that the request names.

    Args:
        request: its `model` or `in_memory`, and its `task`, are read.
        work: a folder for temporary files.

    Raises:
        UsageError: `model-unreadable`, `model-unsafe`, `model-unsupported`, or `extra-missing`.
    """
    source = _load(request, work)
    _check_labels(source)
    return source


def _check_labels(source: Source) -> None:
    """Refuse labels that aren't those of the model: one of them would get another one's score."""
    decoded = source.signature.postprocess
    if not isinstance(decoded, Classes | TokenClasses):
        return
    for spec in source.signature.outputs:
        if spec.name == decoded.output and spec.shape and spec.shape[-1] not in (-1, len(decoded.labels)):
            message = f"the model has {spec.shape[-1]} scores, but config.json has {len(decoded.labels)} labels"
            raise UsageError("model-unreadable", message, "give id2label in config.json a label for each score")


def _load(request: ExportRequest, work: Path) -> Source:
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
        return _load_folder(path, request.task, work)
    if path.suffix in _FILES and path.is_file():
        not_a_model.check_file(path)
        return _FILES[path.suffix](path, request.task, work)
    raise not_a_model.unknown(path)


def _load_folder(path: Path, task: Task | None, work: Path) -> Source:
    not_a_model.check_folder(path)
    if which_library.is_timm(path):
        from edgeml.exporters import timm_folder  # noqa: PLC0415 -- imports torch

        return timm_folder.load(path, task)
    if peft_folder.is_adapter(path):
        peft_folder.base(path)
    torchvision_operators.declare()
    from edgeml.exporters.huggingface import model  # noqa: PLC0415 -- imports torch and transformers

    return model.load(path, task, work)


def _load_onnx(path: Path, task: Task | None, work: Path) -> Source:
    from edgeml.exporters import onnx_file  # noqa: PLC0415 -- imports onnx

    return onnx_file.load(path, task, work)


def _load_program(path: Path, task: Task | None, _work: Path) -> Source:
    from edgeml.exporters import exported_program  # noqa: PLC0415 -- imports torch

    return exported_program.load(path, task)


def _load_keras(path: Path, task: Task | None, _work: Path) -> Source:
    from edgeml.exporters import keras_file  # noqa: PLC0415 -- imports torch

    return keras_file.load(path, task)


def _load_gguf(path: Path, task: Task | None, work: Path) -> Source:
    from edgeml.exporters.gguf import source  # noqa: PLC0415 -- imports torch and transformers

    return source.load(path, task, work)


_FILES: Final[dict[str, Callable[[Path, Task | None, Path], Source]]] = {
    ".onnx": _load_onnx,
    ".pt2": _load_program,
    ".keras": _load_keras,
    ".gguf": _load_gguf,
}


def release_name(request: ExportRequest, source: Source) -> str:
    """Return the requested name, or one made of the model's.

    Raises:
        UsageError: `usage`, when the model's name has no letter or digit to make one of.
    """
    derived = _UNFIT.sub("-", source.name.lower())[: names.NAME_MAX_CHARS].strip("-_")
    return names.require_name(request.name or derived, "model name (give one with --name)")
