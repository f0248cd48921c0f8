"""The pass before all others: fold constants and batch norms where it can, and infer shapes. It fuses nothing else."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgeml.exporters.onnx_layout import EXTERNAL_MIN_BYTES


@dataclass(frozen=True)
class Prepare:
    """Run onnxruntime's preparation with ONNX's shape inference; the symbolic one fails for models of any length.

    The preparation is given a path. It would make every tensor of a model in memory external, and shape inference must
    read the small ones: the sizes of a Reshape or Split. A batch norm that can't be folded stays in float.
    """

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require an operator."""
        return None if model.graph.node else "it has no operator"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Prepare the model."""
        with tempfile.TemporaryDirectory() as folder:
            given, prepared = Path(folder) / "given.onnx", Path(folder) / "prepared.onnx"
            _fix_weights(model.graph)
            onnx.save_model(model, given, save_as_external_data=True, size_threshold=EXTERNAL_MIN_BYTES)
            quant_pre_process(given, prepared, skip_symbolic_shape=True, save_as_external_data=True)
            return onnx.load(prepared)

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that an operator is left."""
        return None if model.graph.node else "all its outputs are constant"


def _fix_weights(graph: onnx.GraphProto) -> None:
    """Take weights off the inputs, where old files list them: a caller could replace a weight by an input."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)
