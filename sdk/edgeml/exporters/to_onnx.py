"""The adapter to optimum and torch's exporter: the fp32 ONNX model of a source, with any batch size and length."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
import onnx
import torch

from edgeml.exporters import capture, conversion_error, onnx_mask
from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import LOGITS_AT, Generation, PromptInput

#: The first opset with LayerNormalization as one operator; the quantizers support it.
OPSET: Final = 17
#: The oldest opset that torch's exporter of captured programs writes.
CAPTURED_OPSET: Final = 18


def convert(source: Source, work: Path) -> onnx.ModelProto:
    """Convert a source to the fp32 model.

    Raises:
        UsageError: `model-unsupported`, when the exporter doesn't support the architecture or an operator.
    """
    if isinstance(source.model, Path):
        return onnx.load(source.model)
    path = work / "exported.onnx"
    try:
        if source.model.is_captured:
            _capture(source, source.model, path)
        elif source.model.pretrained is None:
            _trace_checked(source, source.model, path)
        # A detector's positions depend on the size of its pictures, which is fixed: tracing makes them constants.
        elif source.task == "object-detection":
            _trace(source, source.model, path)
        elif _writes_in_place(source):
            _with_cache_in_place(source, source.model.pretrained, path)
        elif not _by_optimum(source, source.model.pretrained, path):
            _capture(source, source.model, path)
        return _loaded(source, source.model, path)
    except UsageError:
        raise
    except Exception as error:  # the exporters let errors of their passes pass
        raise conversion_error.unsupported("onnx", error) from error


def _loaded(source: Source, model: TorchModel, path: Path) -> onnx.ModelProto:
    loaded = onnx.load(path)
    if source.task == "fill-mask":
        (output,) = (spec.name for spec in source.signature.outputs)
        onnx_mask.take_row(loaded, output, model.module.inner.mask_id)
    return loaded


def signature(source: Source, model: onnx.ModelProto) -> Signature:
    """Return the signature of the converted model: the source's, without inputs that the converter left out.

    The oracle compares the answers, so an input that matters can't be lost here.

    Raises:
        UsageError: `model-unsupported`, when the converted model has inputs that the source lacks.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {value.name for value in model.graph.input} - weights
    if further := sorted(found - {spec.name for spec in source.signature.inputs}):
        message = f"the converted model needs inputs that edgeml can't prepare: {', '.join(further)}"
        hint = "export a function of the inputs that it should have, as path/file.py:function"
        raise UsageError("model-unsupported", message, hint)
    named = replace(source.signature, inputs=tuple(spec for spec in source.signature.inputs if spec.name in found))
    if not _writes_in_place(source):
        return named
    return replace(named, postprocess=msgspec.structs.replace(named.postprocess, in_place=True))


def _writes_in_place(source: Source) -> bool:
    return source.task == "text-generation" and any(it.name == LOGITS_AT for it in source.signature.inputs)


def _by_optimum(source: Source, pretrained: Any, path: Path) -> bool:  # noqa: ANN401 -- transformers' model
    """Convert by optimum; return whether it knows the architecture with the inputs and outputs of the signature."""
    from edgeml.exporters.huggingface import optimum_onnx  # noqa: PLC0415 -- imports optimum

    if not optimum_onnx.convert(pretrained, source.task, path, opset=OPSET):
        return False
    graph = onnx.load(path, load_external_data=False).graph
    inputs, outputs = {it.name for it in graph.input}, {it.name for it in graph.output}
    named = source.signature
    is_whole = inputs == {it.name for it in named.inputs} and outputs >= {it.name for it in named.outputs}
    return source.task == "text-generation" or is_whole


def _with_cache_in_place(source: Source, pretrained: Any, path: Path) -> None:  # noqa: ANN401 -- transformers' model
    from edgeml.exporters.huggingface import decoder_onnx  # noqa: PLC0415 -- imports transformers

    spec = cast("Generation", source.signature.postprocess)
    shapes = [source.example[name].shape[1::2] for name in spec.past]
    tokens_max = cast("PromptInput", source.signature.preprocess).max_length
    decoder_onnx.convert(pretrained, spec.past, shapes, path, tokens_max=tokens_max)


def _capture(source: Source, model: TorchModel, path: Path) -> None:
    """Convert by `torch.export`, which follows a model's control flow where a trace would lose it."""
    named = {spec.name: spec for spec in source.signature.inputs}
    # Of one example torch would take the batch size for a constant.
    example = tuple(torch.from_numpy(np.concatenate([source.example[name]] * 2)) for name in named)
    torch.onnx.export(
        _Positional(model.module, tuple(named)).eval(),
        example,
        path,
        input_names=list(named),
        output_names=[spec.name for spec in source.signature.outputs],
        dynamic_shapes=(tuple(dict.fromkeys(_free(spec), torch.export.Dim.DYNAMIC) for spec in named.values()),),
        opset_version=CAPTURED_OPSET,
        external_data=False,
        verbose=False,
        dynamo=True,
    )


def _trace_checked(source: Source, model: TorchModel, path: Path) -> None:
    """Trace; where the trace met a Python number made of a tensor, check that the model doesn't depend on it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        _trace(source, model, path)
    if any(issubclass(it.category, torch.jit.TracerWarning) for it in caught):
        capture.check(model.module, {name: torch.from_numpy(array) for name, array in source.example.items()})


def _trace(source: Source, model: TorchModel, path: Path) -> None:
    names = [spec.name for spec in source.signature.inputs]
    outputs = [spec.name for spec in source.signature.outputs]
    example = tuple(torch.from_numpy(source.example[name].copy()) for name in names)
    torch.onnx.export(
        # Without evaluation mode here, the exporter puts the inner model back into training mode at its end.
        _Positional(model.module, tuple(names)).eval(),
        example,
        path,
        input_names=names,
        output_names=outputs,
        dynamic_axes={
            spec.name: {axis: f"{spec.name}_{axis}" if axis else "batch_size" for axis in _free(spec)}
            for spec in (*source.signature.inputs, *source.signature.outputs)
        },
        opset_version=OPSET,
        dynamo=False,
    )


def _free(spec: TensorSpec) -> list[int]:
    return [axis for axis, length in enumerate(spec.shape) if length == -1]


class _Positional(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A module with inputs in order and outputs as a tuple, for the exporter."""

    def __init__(self, named: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.named, self._names = named, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.named(**dict(zip(self._names, inputs, strict=True))).values())
