"""The kernels that multiply a language model's weights on its target's CPU, for the card.

`edgeml_runtime.verify.kernels` runs a token and the gauge there. This module makes the gauge, and words the results.
Without evidence of a kernel the card names the operator alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeml.quantize import recipes
from edgeml.quantize.onnx.nbits import BlockWeights
from edgeml_core.card import How, Kernels, KernelUse
from edgeml_core.manifest import Manifest
from edgeml_core.processing import Generation
from edgeml_core.profile import RecipeName
from edgeml_runtime.verify.kernels import (
    BLOCK_PRODUCT,
    BYTES,
    BYTES_TIMES,
    INNER,
    ROWS,
    ROWS_TIMES,
    SMALL_AT,
    WEIGHT,
    KernelReport,
    Products,
)

#: Columns of the gauge's products. Each kernel computes several at a time.
_OUTER: Final = 32
_OPSET: Final = 17
_IR_VERSION: Final = 8
#: Bits of a weight by the data type that it is multiplied with.
_BITS: Final = {"float": 32, "float16": 16, "uint8": 8, "int8": 8}
#: The option by which arm64 multiplies floats in bfloat16.
_BFLOAT16_OPTION: Final = "mlas.enable_gemm_fastmath_arm64_bfloat16"
_SHARE_DECIMALS: Final = 4


def gauge(manifest: Manifest, recipe: RecipeName) -> bytes:
    """Return the gauge of a recipe; empty for a model whose kernels the card doesn't name."""
    if not isinstance(manifest.postprocess, Generation) or manifest.runtime.engine != "onnxruntime":
        return b""
    floats = np.zeros((INNER, _OUTER), np.float32)
    floats[SMALL_AT] = 1
    integers = np.full((INNER, _OUTER), WEIGHT, np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [ROWS, "floats"], [ROWS_TIMES]),
            helper.make_node("MatMulInteger", [BYTES, "integers"], [BYTES_TIMES]),
        ],
        "gauge",
        [
            helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, [1, INNER]),
            helper.make_tensor_value_info(BYTES, TensorProto.UINT8, [1, INNER]),
        ],
        [
            helper.make_tensor_value_info(ROWS_TIMES, TensorProto.FLOAT, [1, _OUTER]),
            helper.make_tensor_value_info(BYTES_TIMES, TensorProto.INT32, [1, _OUTER]),
        ],
        [numpy_helper.from_array(floats, "floats"), numpy_helper.from_array(integers, "integers")],
    )
    model = helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)])
    if recipes.TABLE[recipe].blocks:
        model = BlockWeights(bits=recipes.TABLE[recipe].bits).call(model)
    made: bytes = model.SerializeToString()
    return made


def describe(
    found: KernelReport | None, manifest: Manifest, recipe: RecipeName, *, cpu: str, how: How, runtime: str
) -> Kernels | None:
    """Word a report for the card; None where there is none, or no operator multiplies weights.

    Args:
        found: from the target's CPU.
        manifest: the bundle's.
        recipe: the bundle's.
        cpu: that CPU's name.
        how: whether it was emulated.
        runtime: the runtime's version there.
    """
    if found is None or not found.products:
        return None
    total = sum(it.weights for it in found.products)
    return Kernels(
        cpu=cpu,
        how=how,
        runtime=f"{manifest.runtime.engine} {runtime}",
        operators=found.operators,
        products=tuple(
            KernelUse(
                operator=it.operator,
                bits=recipes.TABLE[recipe].bits if it.operator == BLOCK_PRODUCT else _BITS.get(it.dtype, 0),
                count=it.count,
                share=round(it.weights / total, _SHARE_DECIMALS),
                kernel=", ".join(_kernel(it, found, manifest, recipe)),
            )
            for it in found.products
        ),
    )


def _kernel(it: Products, found: KernelReport, manifest: Manifest, recipe: RecipeName) -> Iterator[str]:
    """Yield the properties of a kernel that the report shows."""
    if it.operator == BLOCK_PRODUCT:
        if it.is_unpacked:
            yield "fp32 products"
            yield "weights unpacked in each run"
        elif recipes.TABLE[recipe].blocks:  # else the runtime made the operator, by attributes that nothing shows
            yield "int8 products" if found.rows_in_int8 else "fp32 products"
            if found.rows_in_int8:
                yield from _instructions(found)
    elif it.dtype == "float":
        if _BFLOAT16_OPTION not in manifest.runtime.options:
            yield "fp32 products"
    elif it.dtype == "uint8":
        yield "int8 products"
        made = recipes.TABLE[recipe]
        if made.signed and not made.reduced and not found.is_exact:
            yield "sums in 16 bits that saturate"
        elif made.signed or manifest.cpu.arch == "aarch64":  # x86 has other kernels for unsigned weights
            yield from _instructions(found)


def _instructions(found: KernelReport) -> Iterator[str]:
    if found.has_dot_products is not None:
        yield f"{'with' if found.has_dot_products else 'without'} dot product instructions"
