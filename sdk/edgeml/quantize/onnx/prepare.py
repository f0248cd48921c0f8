"""The pass before all others: fold constants and batch norms where it can, and infer shapes. It fuses nothing else."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnx import numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgeml.exporters.onnx_layout import EXTERNAL_MIN_BYTES
from edgeml.quantize.onnx.graph_pass import all_nodes, graphs

#: Prefix of the names of weights that were inside a branch or a loop body.
LIFTED: Final = "lifted_"


@dataclass(frozen=True)
class Prepare:
    """Run onnxruntime's preparation with ONNX's shape inference; the symbolic one fails for models of any length.

    The preparation is given a path. It would make every tensor of a model in memory external, and shape inference must
    read the small ones: the sizes of a Reshape or Split. A batch norm that can't be folded stays in float.
    """

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require weights in float32."""
        types = {tensor.data_type for graph in graphs(model.graph) for tensor in _weights(graph)}
        if onnx.TensorProto.FLOAT in types:
            return None
        half = types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
        return "its weights have 16 bits; quantization starts from float32" if half else "it has no weights in float32"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Prepare the model."""
        with tempfile.TemporaryDirectory() as folder:
            given, prepared = Path(folder) / "given.onnx", Path(folder) / "prepared.onnx"
            _fix_weights(model.graph)
            onnx.save_model(model, given, save_as_external_data=True, size_threshold=EXTERNAL_MIN_BYTES)
            quant_pre_process(given, prepared, skip_symbolic_shape=True, save_as_external_data=True)
            model = onnx.load(prepared)
        lift_weights(model.graph)
        return model

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that an operator is left."""
        return None if model.graph.node else "all its outputs are constant"


def _fix_weights(graph: onnx.GraphProto) -> None:
    """Take weights off the inputs, where old files list them: a caller could replace a weight by an input."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the constants of a graph, its initializers and Constant nodes, without those of the graphs inside it."""
    yield from graph.initializer
    yield from (node.attribute[0].t for node in graph.node if _is_constant(node))


def _is_constant(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "Constant" and node.attribute[0].name == "value")


def lift_weights(graph: onnx.GraphProto) -> None:
    """Move the large weights of branches and loop bodies to the model's own, which all of them see, each once.

    Folding copies a weight into each branch that uses it. The branches are then larger than the model was.
    """
    known = {_digest(tensor): tensor.name for tensor in graph.initializer if _is_large(tensor)}
    for inner in list(graphs(graph))[1:]:
        lifted: dict[str, str] = {}
        outputs = {value.name for value in inner.output}
        for tensor in [it for it in inner.initializer if _is_large(it) and it.name not in outputs]:
            digest = _digest(tensor)
            if digest not in known:
                known[digest] = f"{LIFTED}{len(known)}"
                graph.initializer.append(tensor)
                graph.initializer[-1].name = known[digest]
            lifted[tensor.name] = known[digest]
            inner.initializer.remove(tensor)
        for node in all_nodes(inner):
            node.input[:] = [lifted.get(name, name) for name in node.input]


def _digest(tensor: onnx.TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()


def _is_large(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.ByteSize() >= EXTERNAL_MIN_BYTES)
