"""A model from an `.onnx` file. The file is its own original, so parity measures the effect of quantization alone.

With a task, the tokenizer, image processor or labels come from the JSON files beside it.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper

from edgeml.exporters.huggingface import audio, image_processor
from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.source import Signature, Source
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.manifest import DTYPES, Task, TensorSpec
from edgeml_core.processing import Postprocess, Preprocess, TensorInput, TensorOutput
from edgeml_core.profile import ModelKind
from edgeml_runtime.engines.ort import OrtSession
from edgeml_runtime.tensors import Array

#: The first opset with per-channel QDQ (ONNX: DequantizeLinear's axis).
OPSET_MIN: Final = 13
_QUANTIZED: Final = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}


def load(path: Path, task: Task | None, work: Path) -> Source:
    """Load the model in an `.onnx` file.

    Raises:
        UsageError: `model-unreadable`, or `model-unsupported` for an old opset or a model quantized already.
    """
    model = _read(path)
    task = task or "tensors"
    inputs, outputs = _specs(model.graph.input), _specs(model.graph.output)
    preprocess, assets = _preprocess(path.parent, task, work)
    original = _session(path)
    example = {spec.name: _example(spec) for spec in inputs}
    return Source(
        name=path.stem,
        task=task,
        kind=_kind(model),
        sha256=hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        signature=Signature(
            inputs=inputs,
            outputs=outputs,
            preprocess=preprocess,
            postprocess=_postprocess(path.parent, task, outputs),
        ),
        example=example,
        original=original,
        original_name="ONNX fp32",
        assets=assets,
        model=path,
        tools={"onnx": metadata.version("onnx")},
    )


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the disk share no base
        raise UsageError("model-unreadable", f"{path} is not a valid ONNX model: {error}", "export it again") from error
    opset = next((it.version for it in model.opset_import if it.domain in ("", "ai.onnx")), 0)
    if opset < OPSET_MIN:
        hint = "convert it with onnx.version_converter, or export it again"
        raise UsageError("model-unsupported", f"the model has opset {opset}; {OPSET_MIN} is the oldest", hint)
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        raise UsageError("model-unsupported", "the model is quantized already", "export it in fp32")
    return model


def _session(path: Path) -> OrtSession:
    try:
        return OrtSession(path, {}, threads=1)
    except EdgemlError as error:
        raise UsageError("model-unsupported", f"onnxruntime can't run the model: {error}", "export it again") from error


def _specs(values: object) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value) for value in values)  # type: ignore[attr-defined] # protobuf's own containers


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = DTYPES.get(helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)
    if dtype is None:
        raise UsageError("model-unsupported", f"{value.name!r} has an unsupported data type", "use float32 or integers")
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def _preprocess(folder: Path, task: Task, work: Path) -> tuple[Preprocess, dict[str, Path]]:
    match task:
        case "tensors":
            return TensorInput(), {}
        case "image-classification":
            return image_processor.image_input(folder), {}
        case "audio-classification":
            return audio.audio_input(folder), {}
        case "text-generation" | "object-detection":
            raise UsageError("model-unsupported", f"task {task} is not for .onnx files", "name the model's folder")
        case _:
            tokenizer = work / folders.TOKENIZER
            read = folders.question_input if task == "question-answering" else folders.text_input
            return read(folder, tokenizer), {folders.TOKENIZER: tokenizer}


def _postprocess(folder: Path, task: Task, outputs: tuple[TensorSpec, ...]) -> Postprocess:
    return (
        TensorOutput() if task == "tensors" else folders.postprocess(folder, task, *(output.name for output in outputs))
    )


def _example(spec: TensorSpec) -> Array:
    """Make a ramp: all values of a float input differ, and are the same on every machine."""
    shape = tuple(1 if length == -1 else length for length in spec.shape)
    if spec.dtype in ("float32", "float16"):
        return np.linspace(-1, 1, int(np.prod(shape)), dtype=spec.dtype).reshape(shape)
    return np.ones(shape, dtype=spec.dtype)


def _kind(model: onnx.ModelProto) -> ModelKind:
    return "cnn" if sum(node.op_type == "Conv" for node in model.graph.node) > 1 else "encoder"
