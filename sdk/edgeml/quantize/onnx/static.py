"""The pass to static int8 (QDQ): weights per channel, activations in ranges measured on calibration data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    calibrate,
    quantize_static,
)

from edgeml.quantize import recipes
from edgeml.quantize.onnx.embeddings import PREFIX
from edgeml.quantize.onnx.graph_pass import has
from edgeml_runtime.tensors import Array

#: Bins of a histogram of many calibration values. onnxruntime's 128 for entropy are as many as int8 has levels: its
#: search then finds the whole range, as `minmax` does. With 512 the search takes about 0.1 s a tensor.
FINE_BINS: Final = 512
#: Values for each fine bin; a histogram of fewer has gaps, and the search takes them for outliers.
VALUES_PER_BIN: Final = 64
#: The operators that int8 is for; what follows the last of them is the tail.
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_METHODS: Final[dict[recipes.CalibrationMethod, CalibrationMethod]] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True, kw_only=True)
class Static:
    """Quantize with onnxruntime's static quantization, uint8 activations and int8 weights.

    Every CPU in targets/ has kernels for this pair.

    Args:
        reduced: 7 bits of weight range, so that a CPU without VNNI doesn't saturate.
        calibration: inputs of real requests, arrays by tensor name.
        method: how the range of an activation follows from its calibration values.
        excluded: names of nodes that stay in float.
    """

    reduced: bool
    calibration: Sequence[Mapping[str, Array]]
    method: recipes.CalibrationMethod = "minmax"
    excluded: Sequence[str] = ()

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require calibration data, and an operator with weights."""
        if not self.calibration:
            return "there is no calibration data"
        return None if has(model, "Conv", "MatMul", "Gemm") else "it has no convolution or matrix product"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Quantize the model."""
        with tempfile.TemporaryDirectory() as folder, _own_histograms():
            path = Path(folder) / "static.onnx"
            quantize_static(
                model,
                path,
                _Reader(self.calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=self.reduced,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[
                    *self.excluded,
                    *(node.name for node in model.graph.node if node.name.startswith(PREFIX)),
                    *tail(model.graph),
                ],
                calibrate_method=_METHODS[self.method],
            )
            return onnx.load(path)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure quantized activations."""
        return None if has(model, "QuantizeLinear") else "no operator could be quantized"


def tail(graph: onnx.GraphProto) -> list[str]:
    """List the nodes behind the last products and convolutions by name: they stay in float.

    They cost next to nothing, and one scale of int8 for values of several kinds loses the smaller ones: a detector
    concatenates boxes in pixels and probabilities.
    """
    needed = {name for node in graph.node if node.op_type in _WEIGHTED for name in node.input}
    found = []
    for node in reversed(graph.node):
        if node.op_type in _WEIGHTED or needed.intersection(node.output):
            needed.update(node.input)
        else:
            found.append(node.name)
    return found


class _Histograms(calibrate.HistogramCollector):  # type: ignore[misc] # onnxruntime has no types
    num_bins: int

    def collect(self, name_to_arr: Mapping[str, Sequence[Array]]) -> None:
        given = self.num_bins
        for name, arrays in name_to_arr.items():
            values = np.concatenate([it.ravel() for it in arrays])
            self.num_bins = max(given, FINE_BINS) if values.size >= FINE_BINS * VALUES_PER_BIN else given
            super().collect({name: values})
        self.num_bins = given


@contextmanager
def _own_histograms() -> Iterator[None]:
    """Let onnxruntime count values finely, of rows that differ in length too. Its own collector stacks the rows."""
    own = calibrate.HistogramCollector
    calibrate.HistogramCollector = _Histograms
    try:
        yield
    finally:
        calibrate.HistogramCollector = own


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    def __init__(self, inputs: Sequence[Mapping[str, Array]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        inputs = next(self._inputs, None)
        return dict(inputs) if inputs is not None else None
