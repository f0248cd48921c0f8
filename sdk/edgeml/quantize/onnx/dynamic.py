"""The pass to dynamic int8, with activations scaled at run time: products and LSTMs with constant weights.

Weights have a scale for each channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgeml.quantize.onnx.graph_pass import has


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Quantize with onnxruntime's dynamic quantization.

    Args:
        signed: int8 weights, else uint8.
        reduced: 7 bits of range, so that a CPU without VNNI doesn't saturate.
        excluded: names of nodes that stay in float.
    """

    signed: bool
    reduced: bool
    excluded: Sequence[str] = ()

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require matrix products or LSTMs. Convolutions stay in float, since dynamic int8 makes them slower."""
        return None if has(model, "MatMul", "Gemm", "LSTM") else "it has no matrix product"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Quantize the model."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dynamic.onnx"
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul", "LSTM"],
                nodes_to_exclude=list(self.excluded),
                per_channel=True,
                reduce_range=self.reduced,
                weight_type=QuantType.QInt8 if self.signed else QuantType.QUInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            return onnx.load(path)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure integer matrix products or LSTMs."""
        return None if has(model, "MatMulInteger", "DynamicQuantizeLSTM") else "no matrix product has constant weights"
