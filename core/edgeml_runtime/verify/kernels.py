"""The operators that multiply a language model's weights for one token, and how this CPU computes their products.

The operators come from the runtime's profile of a run. It names no kernels, so a small model, the gauge, runs products
that have another result in each kind of kernel. The host makes it in `edgeml.pipeline.kernels`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgeml_core.manifest import Manifest
from edgeml_core.processing import Generation
from edgeml_runtime import engines
from edgeml_runtime.engines import OperatorRun, Session
from edgeml_runtime.generate.cache import Cache, Decoder
from edgeml_runtime.hardware import board
from edgeml_runtime.tensors import Array

#: The tensors of the gauge: rows and bytes [1, `INNER`], and the product of each with weights.
ROWS: Final = "rows"
ROWS_TIMES: Final = "rows_times"
BYTES: Final = "bytes"
BYTES_TIMES: Final = "bytes_times"
INNER: Final = 64
#: The small number of the rows meets weights of 1, and all others meet zeros.
SMALL_AT: Final = 1
#: Beside the large number in its block, the small one is less than half a step of int8.
_LARGE: Final = 127.0
_SMALL: Final = 0.1
#: Distance from the small number that rounding to 24 or 8 bits stays below.
_TOLERANCE: Final = 0.01
#: All bytes, and all weights that they meet. Two of their products together exceed 16 bits.
_BYTE: Final = 255
WEIGHT: Final = 127
#: The operators that multiply an input with weights. One takes floats, and multiplies them in 8 bits.
_QUANTIZES: Final = "DynamicQuantizeMatMul"
_PRODUCTS: Final = frozenset(
    {_QUANTIZES, "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat"}
)
BLOCK_PRODUCT: Final = "MatMulNBits"
#: The option by which x86 multiplies integers exactly without dot product instructions.
_EXACT_OPTION: Final = "session.x64quantprecision"


class Products(msgspec.Struct, frozen=True, kw_only=True):
    """The products of one operator with weights, in the run of one token.

    Attributes:
        operator: the runtime's name.
        dtype: of the numbers that the weights are multiplied with.
        count: of the operators.
        weights: the numbers that they multiply.
        is_unpacked: whether the runtime left the weights as they are stored.
    """

    operator: str
    dtype: str
    count: int
    weights: int
    is_unpacked: bool


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    """The operators of one token on this CPU, and its kinds of kernels.

    Attributes:
        operators: all that ran.
        products: those that multiply weights, the most weights first.
        rows_in_int8: whether the gauge's rows are rounded to int8.
        is_exact: whether the gauge's integer products have exact sums. Sums in 16 bits saturate.
        has_dot_products: whether integer products use dot product instructions; None where nothing shows it.
    """

    operators: int
    products: tuple[Products, ...]
    rows_in_int8: bool
    is_exact: bool
    has_dot_products: bool | None


def report(path: Path, manifest: Manifest, gauge: bytes) -> KernelReport | None:
    """Run one token of a language model and the gauge.

    Args:
        path: the model file.
        manifest: the bundle's. The gauge runs with its options.
        gauge: an ONNX model with the tensors above.

    Returns:
        None for another kind of model, and for a runtime without a profile.

    Raises:
        DeviceError: `runtime-failed`.
    """
    spec = manifest.postprocess
    if not isinstance(spec, Generation):
        return None
    decoder = Decoder(manifest.inputs, spec)
    runs = engines.profile(path, manifest, lambda session: Cache(decoder, session).read([0]))
    if runs is None:
        return None
    with tempfile.TemporaryDirectory(prefix="edgeml-") as folder:
        gauge_path = Path(folder) / "gauge.onnx"
        gauge_path.write_bytes(gauge)
        session = engines.load(gauge_path, manifest, threads=1)
        try:
            results = _gauged(session)
        finally:
            session.close()
    is_exact = bool((results[BYTES_TIMES] == INNER * _BYTE * WEIGHT).all())
    return KernelReport(
        operators=len(runs),
        products=tuple(products(runs)),
        rows_in_int8=bool((abs(results[ROWS_TIMES] - _SMALL) > _TOLERANCE).all()),
        is_exact=is_exact,
        has_dot_products=_has_dot_products(manifest, is_exact=is_exact),
    )


def _gauged(session: Session) -> dict[str, Array]:
    rows = np.zeros((1, INNER), np.float32)
    rows[0, 0], rows[0, SMALL_AT] = _LARGE, _SMALL
    return session.run({ROWS: rows, BYTES: np.full((1, INNER), _BYTE, np.uint8)})


def _has_dot_products(manifest: Manifest, *, is_exact: bool) -> bool | None:
    """Return whether integer products use dot product instructions.

    onnxruntime takes them on arm64 where the CPU has them. On x86 its other kernels saturate, unless an option asks for
    exact ones.
    """
    this = board.this_machine()
    if this.arch == "aarch64":
        return "asimddp" in this.cpu_features
    return is_exact if this.arch == "x86_64" and _EXACT_OPTION not in manifest.runtime.options else None


def products(runs: Iterable[OperatorRun]) -> list[Products]:
    """Sum up the products with weights by operator, the most weights first."""
    counts: Counter[tuple[str, str, bool]] = Counter()
    weights: Counter[tuple[str, str, bool]] = Counter()
    for run in runs:
        if _multiplies_weights(run):
            dtype, shape = run.inputs[0]
            is_unpacked = run.operator == BLOCK_PRODUCT and any(dtype == "uint8" for dtype, _ in run.inputs)
            key = run.operator, "uint8" if run.operator == _QUANTIZES else dtype, is_unpacked
            counts[key] += 1
            weights[key] += shape[-1] * run.output[-1]
    return [
        Products(operator=key[0], dtype=key[1], is_unpacked=key[2], count=counts[key], weights=total)
        for key, total in weights.most_common()
    ]


def _multiplies_weights(run: OperatorRun) -> bool:
    """Return whether one factor of a product is constant: packed weights are no longer among the inputs."""
    if run.operator == BLOCK_PRODUCT:
        return True
    return run.operator in _PRODUCTS and (len(run.inputs) == 1 or run.constant_bytes > 0)
