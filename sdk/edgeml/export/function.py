"""A model from a Python function: `file.py:function` returns `(torch.nn.Module, example_inputs)`.

Running the file runs its code: it is the operator's own. Example inputs are a tensor, a tuple of tensors or a dict.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from edgeml.export.source import Signature, Source, TorchModel
from edgeml.export.torch_session import Named, TorchSession, digest, kind, specs
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Classes, ImageInput, Postprocess, Preprocess, Task, TensorInput, TensorOutput
from edgeml_runtime.tensors import Array

_HINT: Final = "the function must return (torch.nn.Module, example inputs of batch size 1)"
_IMAGE_DIMENSIONS: Final = 4


def load(path: Path, function: str, task: Task | None) -> Source:
    """The model that a function returns.

    Raises:
        UsageError: `model-unreadable`, when the file or function fails; `model-unsupported`, for a task of texts.
    """
    module, example = _returned(path, function)
    tensors = {name: value.numpy() for name, value in example.items()}
    named = Named(module.eval(), tuple(example), outputs=(), by_keyword=False)
    original = TorchSession(named)
    try:
        outputs = original.run(tensors)
        inputs, given = specs(tensors), specs(outputs)
    except Exception as error:  # the operator's own code
        raise UsageError("model-unreadable", f"the model can't run its example: {error!r}", _HINT) from error
    preprocess, postprocess = _meaning(task, tensors, outputs)
    return Source(
        name=function,
        task=task or "tensors",
        kind=kind(module),
        sha256=digest(module, path),
        signature=Signature(inputs=inputs, outputs=given, preprocess=preprocess, postprocess=postprocess),
        example=tensors,
        original=original,
        original_name="PyTorch",
        assets={},
        model=TorchModel(module=named),
        tools={"torch": metadata.version("torch")},
    )


def _returned(path: Path, function: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError("model-unreadable", f"there is no Python file {path}", "name path/file.py:function")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model, example = getattr(module, function)()
        tensors = _tensors(example)
    except Exception as error:  # the operator's own code
        raise UsageError("model-unreadable", f"{path}:{function} failed: {error!r}", _HINT) from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError("model-unreadable", f"{path}:{function} returned a {type(model).__name__}", _HINT)
    return model, tensors


def _tensors(example: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 -- whatever the function returned
    if isinstance(example, torch.Tensor):
        return {"input": example}
    if isinstance(example, Mapping):
        return dict(example)
    if len(example) == 1:
        return {"input": example[0]}
    return {f"input_{index}": value for index, value in enumerate(example)}


def _meaning(
    task: Task | None, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> tuple[Preprocess, Postprocess]:
    match task:
        case None | "tensors":
            return TensorInput(), TensorOutput()
        case "image-classification":
            return _image(inputs), _classes(outputs)
        case _:
            raise UsageError("model-unsupported", f"task {task} needs a tokenizer", "export a Hugging Face folder")


def _image(inputs: Mapping[str, Array]) -> ImageInput:
    shapes = [array.shape for array in inputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != _IMAGE_DIMENSIONS or shapes[0][1] not in (1, 3):
        raise UsageError(
            "model-unsupported", f"{shapes} is not one image", "take one input of [1, 1 or 3, height, width]"
        )
    _, channels, height, width = shapes[0]
    return ImageInput(
        height=height,
        width=width,
        channels=1 if channels == 1 else 3,
        layout="NCHW",
        resample="bilinear",
        rescale=1 / 255,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def _classes(outputs: Mapping[str, Array]) -> Classes:
    name, scores = next(iter(outputs.items()))
    return Classes(output=name, labels=tuple(str(index) for index in range(scores.shape[-1])), activation="softmax")
