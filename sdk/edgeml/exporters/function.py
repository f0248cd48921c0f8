"""A model from a Python function: `file.py:function` returns `(torch.nn.Module, example_inputs)`.

The file's code runs here, so it must be the operator's own. Example inputs are a tensor, a tuple of tensors or a dict.
The function may also return a fitted scikit-learn estimator and rows to predict.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edgeml.exporters import own_softmax
from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml.exporters.torch_session import ERROR_CHARS, Named, TorchSession, digest, dtype, kind, specs
from edgeml.oracle import torch_modules
from edgeml.pipeline.request import ModelInMemory
from edgeml_core.errors import UsageError
from edgeml_core.manifest import DTYPES, Task, TensorSpec
from edgeml_core.processing import Classes, ImageInput, Postprocess, Preprocess, TensorInput, TensorOutput
from edgeml_core.profile import ModelKind
from edgeml_runtime.tensors import Array

_HINT: Final = "the function must return (torch.nn.Module, example inputs of batch size 1), or (fitted estimator, rows)"
#: On the card of a model that mixes the rows of a batch, or takes no batch.
_FIXED_BATCH: Final = "the model takes its example's batch size only"
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
        UsageError: `model-unreadable`, when the model can't run its example; `model-unsupported`, for a task of texts,
            an input or output that is no tensor, or a model that keeps a state or draws random numbers.
    """
    name, model = given.name, given.model
    if not isinstance(model, torch.nn.Module):
        return _estimator(name, model, given.example, work, task=task)
    tensors = _tensors(given.example)
    named = Named(model.eval(), tuple(tensors), outputs=(), by_keyword=False)
    outputs = first_outputs(named, tensors, _HINT)
    signature = _signature(TorchSession(named), tensors, outputs)
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
        UsageError: `model-unsupported`, for a task of texts or sounds, or a module that keeps a state.
    """
    inputs, outputs = signature
    preprocess, postprocess = _processing(task, inputs, outputs)
    original = TorchSession(module)
    torch_modules.check_repeats(original, example)
    postprocess, notes = own_softmax.leave_out(postprocess, original, example)
    takes_batches = all(spec.shape[:1] == (-1,) for spec in inputs)
    takes_tensors = isinstance(preprocess, TensorInput)
    judge = torch_modules.ModuleJudge(original, example, takes_batches=takes_batches) if takes_tensors else None
    return Source(
        name=name,
        task=task or "tensors",
        kind=kind,
        sha256=sha256,
        signature=Signature(inputs=inputs, outputs=outputs, preprocess=preprocess, postprocess=postprocess),
        example=example,
        original=original,
        original_name="PyTorch",
        assets={},
        model=TorchModel(module=module),
        tools={"torch": metadata.version("torch")},
        notes=notes if takes_batches else (*notes, _FIXED_BATCH),
        judge=judge,
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


def _tensors(example: Any) -> dict[str, Array]:  # noqa: ANN401 -- the operator's own value
    if isinstance(example, torch.Tensor):
        example = (example,)
    if not isinstance(example, Mapping | tuple | list):
        message = f"the example inputs are {_a(example)}, no tensors"
        raise UsageError("model-unreadable", message, _HINT)
    if isinstance(example, Mapping):
        named = {str(name): value for name, value in example.items()}
    else:
        named = {f"input_{index}" if len(example) > 1 else "input": value for index, value in enumerate(example)}
    check_inputs(named)
    return {name: value.detach().numpy() for name, value in named.items()}


def check_inputs(example: Mapping[str, object]) -> None:
    """Check that each input of an example is a tensor that a bundle can have.

    Raises:
        UsageError: `model-unreadable` for no tensor, `model-unsupported` for its data type.
    """
    for name, value in example.items():
        if not isinstance(value, torch.Tensor):
            message = f"the example input {name!r} is {_a(value)}, no tensor"
            hint = "let forward take each tensor as an argument of its own, and fix other values in the module"
            raise UsageError("model-unreadable", message, hint)
        _check_dtype("the example input", name, value)


def first_outputs(module: Named, tensors: Mapping[str, Array], hint: str) -> dict[str, Array]:
    """Run a module's example for the first time.

    Args:
        module: takes and returns tensors by name.
        tensors: the example, arrays by name.
        hint: for a module that can't run it.

    Returns:
        Arrays by the names of the outputs.

    Raises:
        UsageError: `model-unreadable`, when the model can't; `model-unsupported`, when it answers no tensors.
    """
    try:
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
    except Exception as error:  # the operator's own code
        why = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        raise UsageError("model-unreadable", f"the model can't run its example: {why}", hint) from error
    for name, value in outputs.items():
        if not isinstance(value, torch.Tensor):
            message = f"the model's output {name!r} is {_a(value)}, no tensor"
            form = "let forward return a tensor, a tuple of tensors, or a dict of tensors; none inside another"
            raise UsageError("model-unsupported", message, form)
        _check_dtype("the model's output", name, value)
    return {name: value.numpy() for name, value in outputs.items()}


def _check_dtype(what: str, name: str, value: torch.Tensor) -> None:
    try:
        dtype(value)
    except KeyError:
        hint = "compute real and imaginary parts apart, and convert other types by .float() or .long()"
        message = f"{what} {name!r} has the data type {str(value.dtype).removeprefix('torch.')}"
        raise UsageError("model-unsupported", f"{message}: a bundle has {', '.join(DTYPES.values())}", hint) from None


def _a(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _signature(
    session: TorchSession, tensors: Mapping[str, Array], outputs: Mapping[str, Array]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Make specs of any batch size, or of the example's, where it mixes the rows of a batch."""
    if _takes_batches(session, tensors, outputs):
        return specs(tensors), specs(outputs)
    return tuple(_fixed(tensors)), tuple(_fixed(outputs))


def _takes_batches(session: TorchSession, tensors: Mapping[str, Array], outputs: Mapping[str, Array]) -> bool:
    """Whether the answers to the example stay the same with another input behind it in the batch."""
    if not all(array.ndim for array in tensors.values()):
        return False
    _, other, *_ = torch_modules.variations(tensors)
    try:
        found = session.run(torch_modules.stacked(tensors, other))
    except Exception:  # noqa: BLE001 -- the operator's own code
        return False
    return all(
        array.ndim
        and found[name].shape == (2 * len(array), *array.shape[1:])
        and torch_modules.is_near(array, found[name][: len(array)])
        for name, array in outputs.items()
    )


def _fixed(arrays: Mapping[str, Array]) -> Iterator[TensorSpec]:
    for name, array in arrays.items():
        yield TensorSpec(name=name, dtype=DTYPES[array.dtype.name], shape=array.shape)


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
