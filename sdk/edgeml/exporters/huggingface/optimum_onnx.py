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
        UsageError: `model-unsupported`, when optimum doesn't support the language model's architecture.
    """
    if task == "text-generation":
        config = causal_config(pretrained)
    else:
        try:
            constructor = TasksManager.get_exporter_config_constructor(
                "onnx", pretrained, task=task, library_name="transformers"
            )
        except (ValueError, KeyError):
            return False
        config = constructor(pretrained.config)
    export(pretrained, config, path, opset=opset)
    return True


def causal_config(pretrained: Any) -> Any:  # noqa: ANN401 -- transformers and optimum have no types here
    """Make optimum's export configuration of a language model with its cache.

    Raises:
        UsageError: `model-unsupported`, when optimum doesn't support the architecture.
    """
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", pretrained, task="text-generation-with-past", library_name="transformers"
        )
        return constructor(pretrained.config, use_past=True, use_past_in_inputs=True)
    except (ValueError, KeyError) as error:
        hint = "export a GPT-2 or Llama type of model"
        raise UsageError("model-unsupported", f"can't convert this model to ONNX: {error}", hint) from error
