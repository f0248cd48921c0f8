"""The pass to block-wise weights of 8 or 4 bits (MatMulNBits): products in int8 on CPUs with dotprod or VNNI.

On other CPUs the operator has no int8 compute. At accuracy level 0 its 8-bit form ran 9 to 25 times slower than fp32
(design measurement). So only profiles of CPUs that gain name these recipes, and the level is fixed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeml.quantize.onnx.graph_pass import all_nodes
from edgeml_runtime.tensors import Array

#: Weights along the product's inner axis that share a scale.
BLOCK: Final = 32
#: The operator's accuracy level at which activations are quantized to int8, too.
ACCURACY_LEVEL: Final = 4
_DOMAIN: Final = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """Quantize constant matrices of products symmetrically, with one scale for each block of a column.

    Args:
        bits: 4 or 8.
    """

    bits: int

    def requires(self, model: onnx.ModelProto) -> str | None:
        """Require matrix products with constant weights whose inner axis is a multiple of the block."""
        return None if any(_products(model.graph)) else "no matrix product has constant weights in whole blocks"

    def call(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Replace the products by MatMulNBits."""
        graph = model.graph
        weights = {tensor.name: tensor for tensor in graph.initializer}
        for node in list(_products(graph)):
            matrix = weights[node.input[1]]
            values, scales = pack(numpy_helper.to_array(matrix), bits=self.bits)
            names = f"{matrix.name}_blocks", f"{matrix.name}_scales"
            if names[0] not in weights:
                tensors = [numpy_helper.from_array(it, name) for it, name in zip((values, scales), names, strict=True)]
                weights |= {tensor.name: tensor for tensor in tensors}
                graph.initializer.extend(tensors)
            inner, outer = matrix.dims
            node.CopyFrom(
                helper.make_node(
                    "MatMulNBits",
                    [node.input[0], *names],
                    list(node.output),
                    node.name,
                    domain=_DOMAIN,
                    K=inner,
                    N=outer,
                    bits=self.bits,
                    block_size=BLOCK,
                    accuracy_level=ACCURACY_LEVEL,
                )
            )
        _drop_unused(graph)
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        return model

    def ensures(self, model: onnx.ModelProto) -> str | None:
        """Ensure that no such product is left in float."""
        return "a matrix product stayed in float" if any(_products(model.graph)) else None


def pack(matrix: Array, *, bits: int) -> tuple[Array, Array]:
    """Quantize a matrix to the operator's form.

    Args:
        matrix: float32 [inner, outer]; inner is a multiple of `BLOCK`.
        bits: 4 or 8.

    Returns:
        uint8 [outer, blocks, BLOCK * bits / 8], two 4-bit values in a byte, the lower half first; float32 scales
        [outer * blocks].

    Source: onnxruntime's ContribOperators.md, MatMulNBits: without zero points, zero is stored as half the range.
    """
    blocks = np.ascontiguousarray(matrix.T).reshape(matrix.shape[1], -1, BLOCK)
    half = 1 << (bits - 1)
    scales = np.abs(blocks).max(axis=2) / np.float32(half - 1)
    scales = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
    values = (np.clip(np.rint(blocks / scales[..., None]), 1 - half, half - 1) + half).astype(np.uint8)
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    return np.ascontiguousarray(values), scales.ravel()


def _products(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    fit = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[0] % BLOCK == 0
    }
    return (node for node in graph.node if node.op_type == "MatMul" and node.input[1] in fit)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in all_nodes(graph) for name in node.input} | {it.name for it in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
