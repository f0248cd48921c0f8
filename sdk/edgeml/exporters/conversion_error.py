"""The error for a failed converter: one line, with the unsupported operator where its text names one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import onnx

from edgeml.exporters import capture
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format

#: Names of PyTorch's operators in the errors of its exporters and LiteRT's.
_OPERATOR: Final = re.compile(r"\b(?:aten|prims|quantized|torchvision|torchaudio)(?:::|\.)\w+(?:\.\w+)?")
#: Errors of torch's exporter that only say which of its steps failed; their causes say why.
_WRAPPERS: Final = ("TorchExportError", "ConversionError")
#: Characters of the converter's own error in a message.
_LINE_MAX_CHARS: Final = 200
_NAMES: Final[dict[Format, str]] = {"onnx": "ONNX", "tflite": "TFLite"}
_HINTS: Final[dict[Format, str]] = {
    "onnx": "try --format tflite, or export it to an .onnx file yourself and name that",
    "tflite": "export it with --format onnx",
}


def unsupported(file_format: Format, error: Exception) -> UsageError:
    """Build the error for a converter that failed with `error`."""
    if type(error).__name__ in _WRAPPERS and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if explained := capture.explain(error):
        message = f"can't convert this model to {_NAMES[file_format]}: {explained.why}"
        return UsageError("model-unsupported", message, explained.hint)
    text = f"{error}\n{error.__cause__ or error.__context__ or ''}"
    operator = _OPERATOR.search(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    why = f"operator {operator[0]} is not supported" if operator else line[:_LINE_MAX_CHARS]
    message = f"can't convert this model to {_NAMES[file_format]}: {why}"
    return UsageError("model-unsupported", message, _HINTS[file_format])


def no_tflite(path: Path) -> UsageError:
    """Build the error for an `.onnx` file and a request for TFLite."""
    graph = onnx.load(path, load_external_data=False).graph
    own = sorted({node.op_type for node in graph.node if node.domain == "ai.onnx.ml"})
    why = f"TFLite has no operator {own[0]}" if own else "the converter takes PyTorch models"
    hint = "export it with --format onnx, or name the PyTorch model"
    return UsageError("model-unsupported", f"can't convert an .onnx file to TFLite: {why}", hint)
