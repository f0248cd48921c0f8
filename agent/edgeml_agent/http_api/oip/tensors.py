"""The Open Inference Protocol's tensors: as JSON, as bytes, and texts or files as BYTES. No requests here.

In binary a tensor is row-major and little-endian; an element of BYTES is its length, 4 bytes, and then itself.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
extension_binary_data.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from edgeml_agent.http_api.json_body import VALUES_MAX
from edgeml_core.errors import UsageError
from edgeml_core.manifest import DType, TensorSpec
from edgeml_runtime.tensors import NUMPY_TYPES, Array, from_nested

#: The protocol's name of each type that a model can have.
DATATYPES: Final[dict[DType, str]] = {
    "float32": "FP32",
    "float16": "FP16",
    "int64": "INT64",
    "int32": "INT32",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
    "string": "BYTES",
}
_DTYPES: Final[dict[str, DType]] = {datatype: dtype for dtype, datatype in DATATYPES.items()}
#: Texts or files, which the server itself turns into tensors; or the texts of a tensor of strings.
BYTES: Final = DATATYPES["string"]
_NAMES: Final = {NUMPY_TYPES[dtype]: datatype for dtype, datatype in DATATYPES.items()}
#: The upper half of a float32's bits; it comes in binary only and is widened to float32.
BF16: Final = "BF16"
#: Dimensions of a tensor; runtimes take no more.
DIMENSIONS_MAX: Final = 16
#: Elements of a shape, dimensions of 0 left out: NumPy makes no empty array of more than 2**63 bytes.
SHAPE_MAX_ELEMENTS: Final = 2**31 - 1
_LENGTH: Final = struct.Struct("<I")


class Tensor(msgspec.Struct, frozen=True):
    """One input of a request; `data` is nested or flat, row-major, and absent where its bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, object] = {}


def array(tensor: Tensor, binary: memoryview | None) -> Array:
    """Make the array that a tensor describes.

    Args:
        binary: its bytes, where they follow the JSON.

    Returns:
        The array in the tensor's shape; BF16 is widened to float32.

    Raises:
        UsageError: `input-invalid`.
    """
    if tensor.datatype not in {*_DTYPES, BF16}:
        raise _misfit(tensor, f"has datatype {tensor.datatype!r}; known are {', '.join((*_DTYPES, BF16))}")
    _check_shape(tensor)
    if binary is not None:
        return _texts(tensor, binary) if tensor.datatype == BYTES else _from_binary(tensor, binary)
    if tensor.data is None or tensor.datatype == BF16:
        raise _misfit(tensor, "has no data")
    spec = TensorSpec(name=tensor.name, dtype=_DTYPES[tensor.datatype], shape=tuple(tensor.shape))
    found = from_nested(spec, tensor.data)
    if found.size != math.prod(tensor.shape) or (found.ndim != 1 and list(found.shape) != tensor.shape):
        raise _misfit(tensor, f"has data of shape {list(found.shape)}, not {tensor.shape}")
    return found.reshape(tensor.shape)


def elements(tensor: Tensor, binary: memoryview | None, most: int = VALUES_MAX) -> list[bytes]:
    """Return the elements of a BYTES tensor.

    Args:
        most: the largest number of them; more aren't built.

    Raises:
        UsageError: `input-invalid`.
    """
    _check_shape(tensor)
    count = math.prod(tensor.shape)
    if count > most:
        raise _misfit(tensor, f"has {count} elements; at most {most} are read")
    given = (_encoded(tensor, it) for it in tensor.data or []) if binary is None else _split(tensor, binary)
    found = list(islice(given, count + 1))
    if len(found) != count:
        raise _misfit(tensor, f"has {'more' if len(found) > count else 'fewer'} elements than {tensor.shape}")
    return found


def to_json(values: Array) -> Any:  # noqa: ANN401 - msgspec writes what is JSON already as it is
    """Write an output's elements for a message, flat; float32 with the digits that it needs, half of float64's.

    Args:
        values: of any shape; of dtype object, where its elements are texts.
    """
    if values.dtype.kind == "O":
        return values.ravel().tolist()
    return msgspec.Raw(orjson.dumps(np.ascontiguousarray(values).ravel(), option=orjson.OPT_SERIALIZE_NUMPY))


def to_binary(values: Array) -> bytes:
    """Write an output's bytes, row-major and little-endian; an array of dtype object holds texts, written as BYTES."""
    if values.dtype.kind == "O":
        return b"".join(_LENGTH.pack(len(text.encode())) + text.encode() for text in values.ravel())
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def datatype(values: Array) -> str:
    """Return the protocol's name of an output's type."""
    return _NAMES[values.dtype]


def top_classes(values: Array, count: int, labels: Sequence[str]) -> Array:
    """Return the `count` highest of each row as "value:index:label", highest first.

    Args:
        values: scores; classes along the last axis.

    Returns:
        Texts, of dtype object; the last axis has `count` of them.

    Source: Triton's extension_classification.md.
    """
    rows = values.reshape(-1, values.shape[-1])
    # Integers would wrap: 0 is its own negative, and -128 the lowest of int8.
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    classes = [[_class(row, index, labels) for index in best] for row, best in zip(rows, order, strict=True)]
    return np.array(classes, dtype=object).reshape(*values.shape[:-1], -1)


def _class(row: Array, index: int, labels: Sequence[str]) -> str:
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{float(row[index]):.6f}:{index}{label}"


def _check_shape(tensor: Tensor) -> None:
    if len(tensor.shape) > DIMENSIONS_MAX or min(tensor.shape, default=0) < 0:
        raise _misfit(tensor, f"has no valid shape: {tensor.shape[:DIMENSIONS_MAX]}")
    if math.prod(filter(None, tensor.shape)) > SHAPE_MAX_ELEMENTS:
        raise _misfit(tensor, f"has shape {tensor.shape}; {SHAPE_MAX_ELEMENTS} elements at most are read")


def _from_binary(tensor: Tensor, binary: memoryview) -> Array:
    dtype = np.dtype(np.uint16 if tensor.datatype == BF16 else _DTYPES[tensor.datatype]).newbyteorder("<")
    if len(binary) != math.prod(tensor.shape) * dtype.itemsize:
        raise _misfit(tensor, f"has {len(binary)} bytes, but shape {tensor.shape} of {tensor.datatype}")
    found = np.frombuffer(binary, dtype).reshape(tensor.shape)
    if tensor.datatype == BF16:
        return (found.astype(np.uint32) << 16).view(np.float32)
    if tensor.datatype == DATATYPES["bool"] and found.view(np.uint8).max(initial=0) > 1:
        raise _misfit(tensor, "has a byte that is neither 0 nor 1")
    return found.astype(dtype.newbyteorder("="), copy=False)


def _texts(tensor: Tensor, binary: memoryview) -> Array:
    try:
        texts = [element.decode() for element in elements(tensor, binary)]
    except UnicodeDecodeError as error:
        raise _misfit(tensor, f"is not UTF-8: {error}") from error
    return np.array(texts, dtype=object).reshape(tensor.shape)


def _split(tensor: Tensor, binary: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(binary):
        if at + _LENGTH.size > len(binary):
            raise _misfit(tensor, "ends within an element's length")
        (length,) = _LENGTH.unpack_from(binary, at)
        at += _LENGTH.size
        if length > len(binary) - at:
            raise _misfit(tensor, "ends within an element")
        yield bytes(binary[at : at + length])
        at += length


def _encoded(tensor: Tensor, value: object) -> bytes:
    if not isinstance(value, str):
        raise _misfit(tensor, "has an element that is not a text")
    return value.encode()


def _misfit(tensor: Tensor, problem: str) -> UsageError:
    return UsageError("input-invalid", f"input {tensor.name!r} {problem}", "GET /v2/models/NAME lists its inputs")
