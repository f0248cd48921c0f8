"""What a pass over an ONNX model is: it requires, it changes, it ensures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import onnx

from edgeml_core.errors import UsageError


class Pass(Protocol):
    """One change to a model."""

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Why the pass can't be run on `model`, or None."""
        ...

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The changed model; `model` may be used up."""
        ...

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """What is missing from the pass's result, or None."""
        ...


def run(passes: Sequence[Pass], model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after all passes.

    Raises:
        UsageError: `model-unsupported`, when a pass can't be run, fails, or doesn't do what it is for.
    """
    for step in passes:
        if reason := step.requires(model):
            raise _unsupported(reason)
        try:
            model = step.call(model)
        except UsageError:
            raise
        except Exception as error:  # onnxruntime's quantizer raises whatever its steps raise
            raise _unsupported(f"{type(step).__name__} failed: {error}") from error
        if reason := step.ensures(model):
            raise _unsupported(reason)
    return model


def has(model: onnx.ModelProto, *operators: str) -> bool:
    """Whether any node is one of `operators`."""
    return any(node.op_type in operators for node in model.graph.node)


def _unsupported(reason: str) -> UsageError:
    hint = "use --quantize weight-only, or --quantize none to ship fp32"
    return UsageError("model-unsupported", f"the model can't be quantized so: {reason}", hint)
