"""A model from a Python function: `file.py:function` returns `(torch.nn.Module, example_inputs)`.

The file's code runs here, so it must be the operator's own. Example inputs are a tensor, a tuple of tensors or a dict.
The function may also return a fitted scikit-learn estimator and rows to predict.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml.exporters.torch_session import Named, TorchSession, digest, kind, specs
from edgeml.pipeline.request import ModelInMemory
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task, TensorSpec
from edgeml_core.processing import Classes, ImageInput, Postprocess, Preprocess, TensorInput, TensorOutput
from edgeml_core.profile import ModelKind
from edgeml_runtime.tensors import Array

_HINT: Final = "the function must return (torch.nn.Module, example inputs of batch size 1), or (fitted estimator, rows)"
#: Axes of a batch of images: batch, channels, height, width.
_IMAGE_DIMENSIONS: Final = 4


def load(path: Path, function: str, task: Task | None, work: Path) -> Source:
    """Load the model that a function returns.

    Raises:
        UsageError: `model-unreadable`, when the file or function fails; `model-unsupported`, for a task of texts.
    """
    model, example = _call(path, function)
    return of_model(ModelInMemory(name=function, model=model, example=example), task, work, path)


def of_model(given: ModelInMemory, task: Task | None, work: Path, *files: Path) -> Source:
    """Take a model in memory: a torch module with example inputs, or a fitted estimator with rows.

    Args:
        given: its torch module is left in evaluation mode.
        task: `tensors` or `image-classification`; None takes `tensors`.
        work: where files made on the way may lie.
        files: their digests are part of the source's identity.

    Raises:
        UsageError: `model-unreadable`, when the model can't run its example; `model-unsupported`, for a task of texts.
    """
    name, model = given.name, given.model
    if not isinstance(model, torch.nn.Module):
        return _estimator(name, model, given.example, work, task=task)
    try:
        inputs = _tensors(given.example)
        tensors = {key: value.numpy() for key, value in inputs.items()}
    except (TypeError, AttributeError, RuntimeError) as error:
        raise UsageError("model-unreadable", f"the example inputs are no tensors: {error}", _HINT) from error
    named = Named(model.eval(), tuple(inputs), outputs=(), by_keyword=False)
    try:
        outputs = TorchSession(named).run(tensors)
        signature = specs(tensors), specs(outputs)
    except Exception as error:  # the operator's own code
        raise UsageError("model-unreadable", f"the model can't run its example: {error!r}", _HINT) from error
    return source(name, named, tensors, signature, task=task, kind=kind(model), sha256=digest(model, *files))


def source(
    name: str,
    module: Named,
    example: Mapping[str, Array],
    signature: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    *,
    task: Task | None,
    kind: ModelKind,
    sha256: str,
) -> Source:
    """Describe a PyTorch model without a tokenizer or labels.

    Args:
        name: fit to name a release.
        module: takes and returns tensors by name.
        example: inputs of batch 1, arrays by tensor name.
        signature: specs of inputs and outputs.
        task: None for plain tensors.
        kind: decides which quantization recipes suit.
        sha256: of weights and code.

    Raises:
        UsageError: `model-unsupported`, for a task of texts or sounds.
    """
    inputs, outputs = signature
    preprocess, postprocess = _processing(task, inputs, outputs)
    return Source(
        name=name,
        task=task or "tensors",
        kind=kind,
        sha256=sha256,
        signature=Signature(inputs=inputs, outputs=outputs, preprocess=preprocess, postprocess=postprocess),
        example=example,
        original=TorchSession(module),
        original_name="PyTorch",
        assets={},
        model=TorchModel(module=module),
        tools={"torch": metadata.version("torch")},
    )


def _call(path: Path, function: str) -> tuple[Any, Any]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError("model-unreadable", f"there is no Python file {path}", "name path/file.py:function")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model, example = getattr(module, function)()
    except (Exception, SystemExit) as error:  # the operator's own code, which may end the program
        raise UsageError("model-unreadable", f"{path}:{function} failed: {error!r}", _HINT) from error
    return model, example


def _estimator(name: str, model: Any, rows: Any, work: Path, *, task: Task | None) -> Source:  # noqa: ANN401 -- the operator's
    if not hasattr(model, "predict") and not hasattr(model, "transform"):
        raise UsageError("model-unreadable", f"{name} returned a {type(model).__name__}", _HINT)
    try:
        from edgeml.exporters import sklearn_pipeline  # noqa: PLC0415 -- imports scikit-learn and skl2onnx
    except ImportError as error:
        hint = "pip install 'edgeml-deploy[export-sklearn]'"
        raise UsageError("extra-missing", f"scikit-learn models need {error.name}", hint) from error
    return sklearn_pipeline.source(name, model, rows, work, task=task)


def _tensors(example: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 -- the operator's own value
    if isinstance(example, torch.Tensor):
        return {"input": example}
    if isinstance(example, Mapping):
        return dict(example)
    if len(example) == 1:
        return {"input": example[0]}
    return {f"input_{index}": value for index, value in enumerate(example)}


def _processing(
    task: Task | None, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[Preprocess, Postprocess]:
    match task:
        case None | "tensors":
            return TensorInput(), TensorOutput()
        case "image-classification":
            return _image(inputs), _classes(outputs)
        case _:
            raise UsageError("model-unsupported", f"task {task} needs more files", "export a Hugging Face folder")


def _image(inputs: tuple[TensorSpec, ...]) -> ImageInput:
    shapes = [spec.shape for spec in inputs]
    if len(shapes) != 1 or len(shapes[0]) != _IMAGE_DIMENSIONS or shapes[0][1] not in (1, 3):
        hint = "take one input of [1, 1 or 3, height, width]"
        raise UsageError("model-unsupported", f"{[list(shape) for shape in shapes]} is not one image", hint)
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


def _classes(outputs: tuple[TensorSpec, ...]) -> Classes:
    labels = tuple(str(index) for index in range(outputs[0].shape[-1]))
    return Classes(output=outputs[0].name, labels=labels, activation="softmax")
