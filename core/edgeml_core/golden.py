"""Golden cases: real inputs and the outputs that the bundle's model gave where it was made.

This module has bytes and shapes only; `edgeml_runtime.verify.golden` runs and compares them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from edgeml_core import decoding
from edgeml_core.errors import RejectedError
from edgeml_core.manifest import DType

GOLDEN_NAME: Final = "golden.msgpack"
#: Bytes and cases of a golden file: a few real inputs, even of images and sound, are far smaller.
GOLDEN_MAX_BYTES: Final = 64 * 1024 * 1024
CASES_MAX: Final = 64

#: Bytes of one element of each data type; of a string, its length precedes its UTF-8.
ITEM_BYTES: Final[dict[DType, int]] = {
    "float32": 4,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
_LENGTH: Final = struct.Struct("<I")


class TensorData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor: row-major little-endian `data` of `shape`; a string is its length in 4 bytes, then its UTF-8."""

    dtype: DType
    shape: tuple[int, ...]
    data: bytes


class GoldenCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model's inputs by name, and its outputs; of a language model also the tokens that it writes behind them."""

    inputs: dict[str, TensorData]
    outputs: dict[str, TensorData]
    tokens: tuple[int, ...] | UnsetType = UNSET


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
        cases = decoding.from_msgpack(data, tuple[GoldenCase, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("bundle-format", f"the golden file can't be read: {error}") from error
    if not 1 <= len(cases) <= CASES_MAX:
        raise RejectedError("bundle-format", f"the golden file has {len(cases)} cases; 1 to {CASES_MAX} are allowed")
    for case in cases:
        for name, tensor in (case.inputs | case.outputs).items():
            if min(tensor.shape, default=0) < 0 or not _fits(tensor):
                raise RejectedError("bundle-format", f"golden tensor {name!r} doesn't have the bytes of its shape")
    return cases


def _fits(tensor: TensorData) -> bool:
    """Return whether a tensor's bytes are those of its shape."""
    count = math.prod(tensor.shape)
    if tensor.dtype != "string":
        return len(tensor.data) == count * ITEM_BYTES[tensor.dtype]
    try:
        return len(list(strings(tensor.data))) == count
    except (ValueError, struct.error):
        return False


def join_strings(texts: list[str]) -> bytes:
    """Encode strings as the data of a tensor."""
    return b"".join(_LENGTH.pack(len(data)) + data for data in (text.encode() for text in texts))


def strings(data: bytes) -> Iterator[str]:
    """Decode the strings of a tensor's data.

    Raises:
        ValueError: a string ends beyond the data, or is not UTF-8.
        struct.error: the data ends within a length.

    >>> list(strings(join_strings(["Köln", ""])))
    ['Köln', '']
    """
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        if at > len(data):
            raise ValueError(f"a string of {length} bytes ends beyond its data")
        yield data[at - length : at].decode()
