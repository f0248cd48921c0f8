"""The pass to static int8 (QDQ): weights per channel, activations in ranges measured on calibration data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgeml.quantize import recipes
from edgeml.quantize.onnx.embeddings import PREFIX
from edgeml.quantize.onnx.graph_pass import has
from edgeml_runtime.tensors import Array

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
        with tempfile.TemporaryDirectory() as folder:
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
                ],
                calibrate_method=_METHODS[self.method],
            )
            return onnx.load(path)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure quantized activations."""
        return None if has(model, "QuantizeLinear") else "no operator could be quantized"


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    def __init__(self, inputs: Sequence[Mapping[str, Array]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        inputs = next(self._inputs, None)
        return dict(inputs) if inputs is not None else None
