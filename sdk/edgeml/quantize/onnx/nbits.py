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

#: The fewest weights along the product's inner axis that share a scale.
BLOCK: Final = 32
#: By bits, the most weights that share a scale where the inner axis is a multiple of it. In blocks of 64 a weight takes
#: 4.5 bits, as in llama.cpp's Q4_0. On an AMD EPYC with VNNI they take five sixths of the time of blocks of 32.
_LARGEST_BLOCK: Final = {4: 64, 8: 128}
#: Scales that are tried beside the largest weight's own, as shares of it: by bits, since 8 bits gain nothing.
_SHARES: Final = {4: (1.0, 0.85, 0.9, 0.95, 1.05, 1.1), 8: (1.0,)}
#: The operator's accuracy level at which activations are quantized to int8, too.
ACCURACY_LEVEL: Final = 4
_DOMAIN: Final = "com.microsoft"
#: Columns of a matrix that are quantized together, which bounds the memory that this takes.
_ROWS_AT_ONCE: Final = 1024


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
                    block_size=values.shape[2] * 8 // self.bits,
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

    Each block takes the best of some scales, by the squared error. The first puts its largest weight at the end of a
    grid that is symmetric. The others put it near the lowest step, one further from 0, and are below 0 for a positive
    weight. Weights that llama.cpp quantized (Q4_0 at 4 bits, Q8_0 at 8) come back exactly, in its blocks of 32.

    Args:
        matrix: float32 [inner, outer]; inner is a multiple of `BLOCK`.
        bits: 4 or 8.

    Returns:
        uint8 [outer, blocks, block * bits / 8], two 4-bit values in a byte, the lower half first; float32 scales
        [outer * blocks], below 0 where the largest weight is above.

    Source: onnxruntime's ContribOperators.md, MatMulNBits: without zero points, zero is stored as half the range.
    """
    columns = np.ascontiguousarray(matrix.T)
    blocks = columns.reshape(len(columns), -1, _block(columns, bits))
    values: Array = np.empty(blocks.shape, np.uint8)
    scales = np.empty(blocks.shape[:2], np.float32)
    for rows in _parts(columns):
        values[rows], scales[rows], _ = _quantized(blocks[rows], bits)
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    return np.ascontiguousarray(values), scales.ravel()


def _block(columns: Array, bits: int) -> int:
    """Choose how many weights share a scale: the most that fit, or `BLOCK` where that loses nothing.

    >>> _block(np.ones((2, 96), np.float32) * np.pi, 4), _block(np.eye(2, 128, dtype=np.float32), 4)
    (32, 32)
    """
    inner = columns.shape[1]
    smallest = columns.reshape(len(columns), -1, BLOCK)
    if not any(_quantized(smallest[rows], bits)[2].any() for rows in _parts(columns)):
        return BLOCK
    size = _LARGEST_BLOCK[bits]
    while inner % size:
        size //= 2
    return size


def _parts(columns: Array) -> Iterator[slice]:
    return (slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(columns), _ROWS_AT_ONCE))


def _quantized(blocks: Array, bits: int) -> tuple[Array, Array, Array]:
    """Quantize blocks, float32 [rows, blocks, block].

    Returns:
        Values from 0 up, of the same shape; float32 scales and squared errors [rows, blocks].
    """
    half = 1 << (bits - 1)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    best = _rounded(blocks, np.abs(largest) / np.float32(half - 1), half)
    for share in _SHARES[bits]:
        other = _rounded(blocks, largest * np.float32(share) / np.float32(-half), half)
        is_better = other[2] < best[2]
        best = tuple(np.where(is_better, its, one) for its, one in zip(other, best, strict=True))
    steps, scale, error = best
    return (steps + half).astype(np.uint8), scale[..., 0].astype(np.float32), error[..., 0]


def _rounded(blocks: Array, scale: Array, half: int) -> tuple[Array, ...]:
    """Round blocks to the steps of a scale: the steps, the scale without zeros, and the squared errors."""
    scale = np.where(scale == 0, np.float32(1), scale)
    steps = np.clip(np.rint(blocks / scale), -half, half - 1)
    return steps, scale, np.square(steps * scale - blocks).sum(axis=2, keepdims=True)


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
