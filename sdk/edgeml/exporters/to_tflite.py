"""The adapter to litert-torch: a source becomes an fp32 TFLite model of batch 1 and fixed lengths.

A text model gets one signature for each of a few lengths up to its own maximum, such as `len_32` and `len_256`. The
signatures share their weights, and a short text costs less than a long one. A model of sound's samples gets one for
each of a few durations. Images come in as [1, height, width, channels], as TFLite's kernels want them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import litert_torch
import msgspec
import numpy as np
import torch

from edgeml.exporters import conversion_error, tflite_forms
from edgeml.exporters.source import FLOAT, Built, Signature, Source, TorchModel
from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import (
    AudioInput,
    Decoded,
    ImageInput,
    PromptInput,
    TensorInput,
    TextInput,
    Transcript,
)
from edgeml_runtime.tensors import Array

MODEL: Final = "model.tflite"
#: Tokens. A text model gets one signature for each length below its own maximum, and one for that maximum. On MiniLM
#: each adds 5 % to the int8 file and 12 MB of RAM. Beyond the last length attention's square grows too costly for a
#: fixed shape, so longer texts are cut, and the card says so.
LENGTHS: Final = (32, 128, 256, 512)
#: Seconds of sound, one signature for each; longer recordings are cut.
SECONDS: Final = (1, 4)


def write(source: Source, folder: Path) -> Built:
    """Write the fp32 model to `folder`.

    Raises:
        UsageError: `model-unsupported`, for an `.onnx` source, or when the converter can't convert the model.
    """
    if not isinstance(source.model, TorchModel):
        raise conversion_error.no_tflite(source.model)
    if isinstance(source.signature.preprocess, PromptInput):
        reason = "a language model's Concat of past and present grows with every token, and TFLite's shapes are fixed"
        raise UsageError("model-unsupported", reason, "export it with --format onnx")
    if isinstance(source.signature.postprocess, Decoded):
        reason = "a decoder's keys and values grow with every token, and TFLite's shapes are fixed"
        raise UsageError("model-unsupported", reason, "export it with --format onnx")
    if isinstance(source.signature.postprocess, Transcript):
        reason = "TFLite's lengths are fixed, and the zeros behind a short sound change the text that is recognized"
        raise UsageError("model-unsupported", reason, "export it with --format onnx")
    if isinstance(source.signature.preprocess, TensorInput):
        _check_taken(source.signature.inputs)
    signature = _signature(source)
    try:
        _converter(source, source.model, signature).convert().export(str(folder / MODEL))
    except Exception as error:  # the converter's passes raise errors of any type
        raise conversion_error.unsupported("tflite", error) from error
    return Built(file_format="tflite", recipe=FLOAT, folder=folder, model=MODEL, signature=signature)


def _check_taken(inputs: tuple[TensorSpec, ...]) -> None:
    """Refuse tensors that the bundle couldn't take as they are: TFLite's whole numbers have 32 bits."""
    for spec in inputs:
        if spec.dtype == "int64":
            hint = "give an int32 example, of which forward gets int64 tensors, or export it with --format onnx"
            raise UsageError("model-unsupported", f"input {spec.name!r} is int64, and TFLite takes int32", hint)
        if not spec.shape:
            hint = "give it the shape [1], or export it with --format onnx"
            raise UsageError("model-unsupported", f"input {spec.name!r} has no axis, and TFLite adds one", hint)


def _converter(source: Source, model: TorchModel, signature: Signature) -> litert_torch.Converter:
    preprocess, module = signature.preprocess, tflite_forms.module(model)
    if isinstance(preprocess, TextInput | AudioInput) and preprocess.pad_to:
        converter = litert_torch.Converter()
        pad_id = preprocess.pad_id if isinstance(preprocess, TextInput) else 0
        for length in preprocess.pad_to:
            example = _at_length(source.example, length, pad_id)
            converter = converter.signature(f"len_{length}", module, sample_kwargs=_tensors(example))
        return converter
    if isinstance(preprocess, ImageInput):
        example = {name: array.transpose(0, 2, 3, 1) for name, array in source.example.items()}
        return litert_torch.signature("serving_default", _ChannelsLast(module).eval(), sample_kwargs=_tensors(example))
    return litert_torch.signature("serving_default", module, sample_kwargs=_tensors(source.example))


class _ChannelsLast(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    def __init__(self, named: torch.nn.Module) -> None:
        super().__init__()
        self.named = named

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.named(**{name: value.permute(0, 3, 1, 2) for name, value in inputs.items()})  # type: ignore[no-any-return]


def _signature(source: Source) -> Signature:
    preprocess = source.signature.preprocess
    inputs, outputs = map(_one_each, (source.signature.inputs, source.signature.outputs))
    match preprocess:
        case TextInput():
            longest = min(preprocess.max_length, LENGTHS[-1])
            lengths = (*(length for length in LENGTHS if length < longest), longest)
            preprocess = msgspec.structs.replace(preprocess, max_length=lengths[-1], pad_to=lengths)
        case AudioInput(mel=None):
            lengths = tuple(seconds * preprocess.sampling_rate_hz for seconds in SECONDS)
            preprocess = msgspec.structs.replace(preprocess, max_samples=lengths[-1], pad_to=lengths)
        case ImageInput():
            preprocess = msgspec.structs.replace(preprocess, layout="NHWC")
            inputs = tuple(_with_shape(it, (1, it.shape[2], it.shape[3], it.shape[1])) for it in inputs)
        case _:
            inputs = tuple(_with_shape(it, source.example[it.name].shape) for it in inputs)
    return Signature(inputs=inputs, outputs=outputs, preprocess=preprocess, postprocess=source.signature.postprocess)


def _one_each(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Specs for batch 1, with 32-bit integers."""
    return tuple(
        msgspec.structs.replace(it, shape=(1, *it.shape[1:]), dtype="int32" if it.dtype == "int64" else it.dtype)
        for it in specs
    )


def _with_shape(spec: TensorSpec, shape: tuple[int, ...]) -> TensorSpec:
    return msgspec.structs.replace(spec, shape=shape)


def _at_length(example: Mapping[str, Array], length: int, pad_id: int) -> dict[str, Array]:
    pads = {"input_ids": pad_id}
    return {
        name: np.pad(
            array[:, :length], ((0, 0), (0, max(0, length - array.shape[1]))), constant_values=pads.get(name, 0)
        )
        for name, array in example.items()
    }


def _tensors(example: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    narrow = {name: array.astype(np.int32) if array.dtype == np.int64 else array for name, array in example.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in narrow.items()}
