"""The Open Inference Protocol's inference messages: bytes to arrays and back. Knows no model and no HTTP.

A body is JSON, or (with the binary extension) JSON of a given length and the tensors' bytes behind it: `decode` is
the one place that tells them apart, and refuses the second kind for now.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeml_core.errors import UsageError
from edgeml_core.manifest import DType

#: The protocol's name of each type that a model can have.
DATATYPES: Final[dict[DType, str]] = {
    "float32": "FP32",
    "float16": "FP16",
    "int64": "INT64",
    "int32": "INT32",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
}
_DTYPES: Final = {datatype: np.dtype(dtype) for dtype, datatype in DATATYPES.items()}
#: The kinds of numbers that JSON may give for a type: 1 for 1.0 is fine, 1.5 for an integer is not.
_KINDS_TAKEN: Final = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
DIMENSIONS_MAX: Final = 16


class Tensor(msgspec.Struct, frozen=True):
    """One input as it came; `data` is nested or flat, row-major."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class RequestedOutput(msgspec.Struct, frozen=True):
    """One output that the client wants."""

    name: str


class InferRequest(msgspec.Struct, frozen=True):
    """A request; what else a client adds (parameters, `model_name`) is passed over, as the protocol says."""

    inputs: list[Tensor]
    id: str | None = None
    outputs: list[RequestedOutput] = []

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The inputs by name.

        Raises:
            UsageError: `input-invalid`.
        """
        arrays = {tensor.name: _array(tensor) for tensor in self.inputs}
        if len(arrays) != len(self.inputs):
            raise UsageError("input-invalid", "two inputs have the same name", "give each input once")
        return arrays


def decode(body: bytes, json_length: int | None) -> InferRequest:
    """The request in a body.

    Args:
        json_length: the header Inference-Header-Content-Length, when it was sent.

    Raises:
        UsageError: `input-invalid`.
    """
    if json_length is not None:
        hint = "send the tensors as JSON; with tritonclient set_data_from_numpy(..., binary_data=False)"
        raise UsageError("input-invalid", "binary tensors are not read", hint)
    try:
        return msgspec.json.decode(body, type=InferRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("input-invalid", f"the request can't be read: {error}", "see GET /v2/models/NAME") from error


def encode(request: InferRequest, outputs: Mapping[str, NDArray[Any]], *, model_name: str, model_version: str) -> bytes:
    """The response with the outputs that the request asks for, all when it names none.

    Raises:
        UsageError: `input-invalid`, for an output that the model doesn't have.
    """
    wanted = [output.name for output in request.outputs] or list(outputs)
    if unknown := [name for name in wanted if name not in outputs]:
        raise UsageError("input-invalid", f"the model has no output {unknown[0]!r}", f"it has {sorted(outputs)}")
    response: dict[str, object] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        response["id"] = request.id
    response["outputs"] = [_described(name, outputs[name]) for name in wanted]
    return msgspec.json.encode(response)


def _described(name: str, array: NDArray[Any]) -> dict[str, object]:
    datatype = next(datatype for datatype, dtype in _DTYPES.items() if dtype == array.dtype)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def _array(tensor: Tensor) -> NDArray[Any]:
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise _misfit(tensor, f"has datatype {tensor.datatype!r}; known are {', '.join(_DTYPES)}")
    if len(tensor.shape) > DIMENSIONS_MAX or min(tensor.shape, default=0) < 0:
        raise _misfit(tensor, f"has no valid shape: {tensor.shape[:DIMENSIONS_MAX]}")
    try:
        given = np.array(tensor.data)
    except (ValueError, OverflowError) as error:
        raise _misfit(tensor, "has rows of different lengths") from error
    if given.size != math.prod(tensor.shape) or (given.ndim != 1 and list(given.shape) != tensor.shape):
        raise _misfit(tensor, f"has data of shape {list(given.shape)}, not {tensor.shape}")
    if given.size and given.dtype.kind not in _KINDS_TAKEN[dtype.kind]:
        raise _misfit(tensor, f"has data that is not {tensor.datatype}")
    with np.errstate(over="ignore"):
        array = given.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, given):
        raise _misfit(tensor, f"has values outside the range of {tensor.datatype}")
    return array.reshape(tensor.shape)


def _misfit(tensor: Tensor, problem: str) -> UsageError:
    return UsageError("input-invalid", f"input {tensor.name!r} {problem}", "GET /v2/models/NAME tells what it takes")
