"""A converter's failure in one line: which operator it has no way for, where its text says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import onnx

from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format

#: PyTorch's operators, as its exporters and LiteRT's name them.
_OPERATOR: Final = re.compile(r"\b(?:aten|prims|quantized|torchvision|torchaudio)(?:::|\.)\w+(?:\.\w+)?")
_LINE_MAX_CHARS: Final = 200
_NAMES: Final[dict[Format, str]] = {"onnx": "ONNX", "tflite": "TFLite"}
_HINTS: Final[dict[Format, str]] = {
    "onnx": "try --format tflite, or export it to an .onnx file yourself and name that",
    "tflite": "export it with --format onnx",
}


def unsupported(file_format: Format, error: Exception) -> UsageError:
    """The error for a converter that failed with `error`."""
    text = f"{error}\n{error.__cause__ or error.__context__ or ''}"
    operator = _OPERATOR.search(text)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    why = f"operator {operator[0]} has none" if operator else line[:_LINE_MAX_CHARS]
    message = f"there is no way to {_NAMES[file_format]} for this model: {why}"
    return UsageError("model-unsupported", message, _HINTS[file_format])


def no_tflite(path: Path) -> UsageError:
    """The error for an `.onnx` file where TFLite is asked for."""
    graph = onnx.load(path, load_external_data=False).graph
    own = sorted({node.op_type for node in graph.node if node.domain == "ai.onnx.ml"})
    why = f"it has no operator {own[0]}" if own else "it is made from PyTorch models"
    hint = "export it with --format onnx, or name the PyTorch model"
    return UsageError("model-unsupported", f"there is no way to TFLite for an .onnx file: {why}", hint)
