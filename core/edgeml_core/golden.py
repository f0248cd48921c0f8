"""Golden cases: real inputs and the outputs that the bundle's model gave where it was made.

This module has bytes and shapes only; `edgeml_runtime.verify.golden` runs and compares them.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from edgeml_core.errors import RejectedError
from edgeml_core.manifest import DType

GOLDEN_NAME: Final = "golden.msgpack"
#: Bytes and cases of a golden file: a few real inputs, even of images and sound, are far smaller.
GOLDEN_MAX_BYTES: Final = 64 * 1024 * 1024
CASES_MAX: Final = 64

#: Bytes of one element of each data type.
ITEM_BYTES: Final[dict[DType, int]] = {
    "float32": 4,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class TensorData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor: row-major little-endian `data` of `shape`."""

    dtype: DType
    shape: tuple[int, ...]
    data: bytes


class GoldenCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model's inputs by name, and its outputs."""

    inputs: dict[str, TensorData]
    outputs: dict[str, TensorData]


def encode(cases: tuple[GoldenCase, ...]) -> bytes:
    """Encode the golden file."""
    return msgspec.msgpack.encode(cases, order="deterministic")


def decode(data: bytes) -> tuple[GoldenCase, ...]:
    """Decode a golden file.

    Raises:
        RejectedError: `bundle-format`, when it is malformed, empty or a tensor's bytes don't fit its shape.
    """
    if len(data) > GOLDEN_MAX_BYTES:
        raise RejectedError("bundle-format", f"the golden file is longer than {GOLDEN_MAX_BYTES} bytes")
    try:
        cases = msgspec.msgpack.decode(data, type=tuple[GoldenCase, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("bundle-format", f"the golden file can't be read: {error}") from error
    if not 1 <= len(cases) <= CASES_MAX:
        raise RejectedError("bundle-format", f"the golden file has {len(cases)} cases; 1 to {CASES_MAX} are allowed")
    for case in cases:
        for name, tensor in (case.inputs | case.outputs).items():
            size_bytes = math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
            if min(tensor.shape, default=0) < 0 or len(tensor.data) != size_bytes:
                raise RejectedError("bundle-format", f"golden tensor {name!r} doesn't have the bytes of its shape")
    return cases
