"""The adapter to optimum, which converts transformers' models to ONNX. Importing it takes seconds of CPU time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum.exporters.onnx import (
    export,
    model_configs,  # noqa: F401 -- its architectures are known once it is imported
)
from optimum.exporters.tasks import TasksManager

from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task


def convert(pretrained: Any, task: Task, path: Path, *, opset: int) -> bool:  # noqa: ANN401 -- transformers' model
    """Write a transformers model as ONNX.

    Returns:
        Whether optimum knows the architecture; if not, nothing is written.

    Raises:
        UsageError: `model-unsupported`, when optimum doesn't support the model's architecture.
    """
    if task == "text-generation":
        config = causal_config(pretrained)
    else:
        try:
            config = _constructor(pretrained, task)(pretrained.config)
        except UsageError:
            return False
    export(pretrained, config, path, opset=opset)
    return True


def causal_config(pretrained: Any) -> Any:  # noqa: ANN401 -- transformers and optimum have no types here
    """Make optimum's export configuration of a language model with its cache.

    Raises:
        UsageError: `model-unsupported`, when optimum doesn't support the architecture.
    """
    constructor = _constructor(pretrained, "text-generation-with-past")
    try:
        return constructor(pretrained.config, use_past=True, use_past_in_inputs=True)
    except (ValueError, KeyError) as error:
        hint = "export a GPT-2 or Llama type of model"
        raise UsageError("model-unsupported", f"can't convert this model to ONNX: {error}", hint) from error


def _constructor(pretrained: Any, task: str) -> Any:  # noqa: ANN401 -- as above
    try:
        return TasksManager.get_exporter_config_constructor("onnx", pretrained, task=task, library_name="transformers")
    except (ValueError, KeyError):  # its text lists some 150 other types
        message = f"can't convert this model to ONNX: optimum knows no {pretrained.config.model_type} for {task}"
        hint = "try --format tflite, or export it as path/file.py:function"
        raise UsageError("model-unsupported", message, hint) from None
