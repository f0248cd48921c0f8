"""The Open Inference Protocol's inference messages: bytes to arrays and back. Knows no model and no HTTP.

A body is JSON, or (with the binary extension) JSON of a given length and the tensors' bytes behind it: `decode` is
the one place that tells them apart, and refuses the second kind for now.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from edgeml_core.errors import UsageError
from edgeml_core.manifest import DType, TensorSpec
from edgeml_runtime.tensors import Array, from_nested

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
_DTYPES: Final[dict[str, DType]] = {datatype: dtype for dtype, datatype in DATATYPES.items()}
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

    def arrays(self) -> dict[str, Array]:
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


def encode(request: InferRequest, outputs: Mapping[str, Array], *, model_name: str, model_version: str) -> bytes:
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


def _described(name: str, array: Array) -> dict[str, object]:
    datatype = DATATYPES[cast("DType", array.dtype.name)]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def _array(tensor: Tensor) -> Array:
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise _misfit(tensor, f"has datatype {tensor.datatype!r}; known are {', '.join(_DTYPES)}")
    if len(tensor.shape) > DIMENSIONS_MAX or min(tensor.shape, default=0) < 0:
        raise _misfit(tensor, f"has no valid shape: {tensor.shape[:DIMENSIONS_MAX]}")
    array = from_nested(TensorSpec(name=tensor.name, dtype=dtype, shape=tuple(tensor.shape)), tensor.data)
    if array.size != math.prod(tensor.shape) or (array.ndim != 1 and list(array.shape) != tensor.shape):
        raise _misfit(tensor, f"has data of shape {list(array.shape)}, not {tensor.shape}")
    return array.reshape(tensor.shape)


def _misfit(tensor: Tensor, problem: str) -> UsageError:
    return UsageError("input-invalid", f"input {tensor.name!r} {problem}", "GET /v2/models/NAME tells what it takes")
