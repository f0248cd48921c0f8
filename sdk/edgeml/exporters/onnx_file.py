"""A model from an `.onnx` file. The file is its own original, so parity measures the effect of quantization alone.

With a task, the tokenizer, image processor or labels come from the JSON files beside it. A file of an older opset is
converted first (`onnx_opset`); the given file stays the original.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper

from edgeml.exporters import onnx_opset, own_softmax
from edgeml.exporters.huggingface import audio, image_processor, sentence_modules
from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.source import Signature, Source
from edgeml.oracle import torch_modules
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.manifest import DTYPES, Task, TensorSpec
from edgeml_core.processing import Postprocess, Preprocess, TensorInput, TensorOutput
from edgeml_core.profile import ModelKind
from edgeml_runtime.engines.ort import OrtSession
from edgeml_runtime.tensors import Array

#: Free lengths of made-up inputs, shortest first. A model of pictures may refuse those below its strides.
LENGTHS: Final = (1, 8, 32, 64, 320)
#: The text of made-up inputs.
_TEXT: Final = "text"
#: For the card, of a file with a task.
_UNJUDGED: Final = (
    "{}: its preparation and answers were compared with no library of the original; its folder's export compares them"
)
#: Axes of one vector for each item, and for each token.
_AXES: Final = (2, 3)
#: The output with an item's vector, where sentence-transformers' own modules are part of the file.
_SENTENCE: Final = "sentence_embedding"
#: For the dictionaries and lists that other converters write.
_TENSORS_HINT: Final = (
    "convert it with tensors as outputs, by skl2onnx with options={'zipmap': False}; "
    "or export the estimator itself as file.py:function"
)
#: Bytes read at a time.
_BLOCK_BYTES: Final = 1 << 20
_QUANTIZED: Final = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}


def load(path: Path, task: Task | None, work: Path) -> Source:
    """Load the model in an `.onnx` file.

    Raises:
        UsageError: `model-unreadable`, or `model-unsupported` for an old opset, a model quantized already, inputs or
            outputs that a bundle can't have, or random answers.
    """
    model = _read(path)
    task = task or "tensors"
    inputs, outputs = _inputs(model.graph), _outputs(model.graph)
    preprocess, assets = _preprocess(path.parent, task, work)
    original = _session(path)
    answered = _answered(original, inputs)
    first = next(answered, None)
    if first:
        torch_modules.check_repeats(original, first)
    example = first or _example(inputs, LENGTHS[0])
    notes: tuple[str, ...] = () if task == "tensors" else (_UNJUDGED.format(task),)
    postprocess, told = own_softmax.leave_out(_postprocess(path.parent, task, outputs), original, first)
    notes += told
    shipped, opset = path, onnx_opset.version(model)
    if opset < onnx_opset.OPSET_MIN:
        shipped = work / "converted.onnx"
        onnx_opset.upgrade(path, original, [first, *answered] if first else [], shipped)
        notes += (f"converted from opset {opset} to {onnx_opset.OPSET_MIN}; it answers as the given file does",)
    return Source(
        name=path.stem,
        task=task,
        kind=_kind(model),
        sha256=_sha256(model, path),
        signature=Signature(
            inputs=inputs,
            outputs=outputs,
            preprocess=preprocess,
            postprocess=postprocess,
        ),
        example=example,
        original=original,
        original_name="ONNX fp32",
        assets=assets,
        model=shipped,
        tools={"onnx": metadata.version("onnx")},
        notes=notes,
    )


def _read(path: Path) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(path)  # of a path, since a model of 2 GB can't be serialized
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf, onnx and the disk share no base
        raise UsageError("model-unreadable", f"{path} is not a valid ONNX model: {error}", "export it again") from error
    opset = onnx_opset.version(model)
    if opset < onnx_opset.CONVERTED_MIN:
        message = f"the model has opset {opset}; {onnx_opset.CONVERTED_MIN} is the oldest"
        raise UsageError("model-unsupported", message, "export it again with a later opset")
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        raise UsageError("model-unsupported", "the model is quantized already", "export it in fp32")
    return model


def _sha256(model: onnx.ModelProto, path: Path) -> str:
    """Hash the file, then the files of its external weights in the order of their names."""
    beside = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    digest = hashlib.sha256()
    for part in (path, *(path.parent / name for name in sorted(beside))):
        with part.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _session(path: Path) -> OrtSession:
    try:
        return OrtSession(path, {}, threads=1)
    except EdgemlError as error:
        raise UsageError("model-unsupported", f"onnxruntime can't run the model: {error}", "export it again") from error


def _inputs(graph: onnx.GraphProto) -> tuple[TensorSpec, ...]:
    """Describe the inputs that a caller must send: old files list their weights among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return tuple(_spec(value) for value in graph.input if value.name not in weights)


def _outputs(graph: onnx.GraphProto) -> tuple[TensorSpec, ...]:
    """Describe the outputs: numbers, which can be compared with those of another machine."""
    specs = tuple(map(_spec, graph.output))
    if texts := [spec.name for spec in specs if spec.dtype == "string"]:
        message = f"the output {texts[0]!r} is of texts; a bundle answers with numbers"
        raise UsageError("model-unsupported", message, "leave it out of the graph's outputs, and name classes yourself")
    return specs


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        message = f"{value.name!r} is a {str(kind).removesuffix('_type')}; a bundle has tensors"
        raise UsageError("model-unsupported", message, _TENSORS_HINT)
    tensor = value.type.tensor_type
    is_text = tensor.elem_type == onnx.TensorProto.STRING
    name = "string" if is_text else helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    dtype = DTYPES.get(name)
    if dtype is None:
        message = f"{value.name!r} is of {name}; a bundle has {', '.join(DTYPES)}"
        raise UsageError("model-unsupported", message, "cast it to float32 inside the model")
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
        case (
            "text-generation"
            | "text2text-generation"
            | "object-detection"
            | "fill-mask"
            | "automatic-speech-recognition"
        ):
            raise UsageError("model-unsupported", f"task {task} is not for .onnx files", "name the model's folder")
        case _:
            tokenizer = work / folders.TOKENIZER
            return sentence_modules.preprocess(folder, task, tokenizer), {folders.TOKENIZER: tokenizer}


def _postprocess(folder: Path, task: Task, outputs: tuple[TensorSpec, ...]) -> Postprocess:
    if task == "tensors":
        return TensorOutput()
    if task == "feature-extraction":
        return _embedding(folder, outputs)
    return sentence_modules.postprocess(folder, task, *(output.name for output in outputs))


def _embedding(folder: Path, outputs: tuple[TensorSpec, ...]) -> Postprocess:
    """Take the vector of each text where the file has one, else pool those of its tokens as the folder says."""
    output = next((it for it in outputs if it.name == _SENTENCE), outputs[0])
    item, tokens = _AXES
    if len(output.shape) == item:
        return sentence_modules.pooled(output.name)
    if len(output.shape) == tokens:
        return sentence_modules.embedding(folder, output.name)
    message = f"the output {output.name!r} has {len(output.shape)} axes; vectors of texts have 2, of tokens 3"
    raise UsageError("model-unsupported", message, "name such an output first, or export the file without --task")


def _answered(original: OrtSession, inputs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    """Make up inputs of several lengths, and yield those that the model answers."""
    is_free = any(-1 in spec.shape[1:] for spec in inputs)
    for length in LENGTHS if is_free else LENGTHS[:1]:
        example = _example(inputs, length)
        try:
            original.run(example)
        except EdgemlError:
            continue
        yield example


def _example(inputs: Sequence[TensorSpec], length: int) -> dict[str, Array]:
    return {spec.name: _ramp(spec, length) for spec in inputs}


def _ramp(spec: TensorSpec, length: int) -> Array:
    """Make a ramp: all values of a float input differ, and are the same on every machine."""
    shape = tuple((length if axis else 1) if size == -1 else size for axis, size in enumerate(spec.shape))
    if spec.dtype == "string":
        return np.full(shape, _TEXT, dtype=object)
    if spec.dtype in ("float32", "float16"):
        return np.linspace(-1, 1, int(np.prod(shape)), dtype=spec.dtype).reshape(shape)
    return np.ones(shape, dtype=spec.dtype)


def _kind(model: onnx.ModelProto) -> ModelKind:
    return "cnn" if sum(node.op_type == "Conv" for node in model.graph.node) > 1 else "encoder"
