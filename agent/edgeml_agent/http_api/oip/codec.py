"""The Open Inference Protocol's inference messages: bytes to requests and answers to bytes. Knows no model, no HTTP.

A body is JSON, or JSON of a given length and the tensors' bytes behind it, in the order of the tensors.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
extension_binary_data.md, extension_classification.md and extension_parameters.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from edgeml_agent.http_api import json_body, schemas
from edgeml_agent.http_api.oip import tensors
from edgeml_agent.http_api.oip.tensors import BYTES, Tensor
from edgeml_core.errors import UsageError
from edgeml_runtime import requests
from edgeml_runtime.tensors import Array

#: Classes that a request may name; the largest usual label set.
CLASSES_MAX: Final = 1000
#: Microseconds that a client may say it waits: 285 years.
TIMEOUT_MAX: Final = 2**53
_MICROSECONDS: Final = 1e6


class OutputParameters(msgspec.Struct, frozen=True):
    """The form of one output; None leaves it to the request."""

    binary_data: bool | None = None
    classification: int = 0


class RequestedOutput(msgspec.Struct, frozen=True):
    """One output that the client wants."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(msgspec.Struct, frozen=True):
    """The parameters of a request; unknown ones are ignored, as the protocol demands. `timeout` is in µs."""

    binary_data_output: bool = False
    timeout: Annotated[int, Meta(le=TIMEOUT_MAX)] = 0


class InferMessage(msgspec.Struct, frozen=True):
    """The JSON of a request."""

    inputs: list[Tensor]
    id: str | None = None
    outputs: list[RequestedOutput] = []
    parameters: RequestParameters = RequestParameters()


class InferRequest(NamedTuple):
    """A request whose parts fit each other; `binary` has the bytes of the inputs that came so, by name."""

    message: InferMessage
    binary: Mapping[str, memoryview]

    @property
    def timeout_s(self) -> float | None:
        """The seconds that the client waits; None when it names none."""
        timeout = self.message.parameters.timeout
        return timeout / _MICROSECONDS if timeout > 0 else None

    @property
    def has_several_elements(self) -> bool:
        """Whether it has several texts or files, each of which takes a run's time."""
        return any(it.datatype == BYTES and math.prod(it.shape) > 1 for it in self.message.inputs)

    def arrays(self) -> dict[str, Array]:
        """The inputs by name.

        Raises:
            UsageError: `input-invalid`.
        """
        return {it.name: tensors.array(it, self.binary.get(it.name)) for it in self.message.inputs}

    def elements(self) -> list[bytes] | None:
        """The texts or files of the one input, when it is of BYTES; None when the inputs are tensors.

        Raises:
            UsageError: `input-invalid`.
        """
        inputs = self.message.inputs
        if BYTES not in [tensor.datatype for tensor in inputs]:
            return None
        if len(inputs) != 1:
            raise UsageError("input-invalid", "BYTES come as the only input", "send one input of BYTES, or tensors")
        return tensors.elements(inputs[0], self.binary.get(inputs[0].name), requests.ITEMS_MAX)


class InferResponse(NamedTuple):
    """A body; `json_length` is that of its JSON, when tensors' bytes follow it."""

    body: bytes
    json_length: int | None


def decode(body: bytes, json_length: int | None) -> InferRequest:
    """Decode the request in a body.

    Args:
        json_length: the header Inference-Header-Content-Length, when it was sent.

    Raises:
        UsageError: `input-invalid`.
    """
    whole = memoryview(body)
    head, rest = (whole, whole[:0]) if json_length is None else (whole[:json_length], whole[json_length:])
    try:
        message = json_body.decode(head, InferMessage)
    except ValueError as error:
        raise UsageError("input-invalid", f"the request can't be read: {error}", "see GET /v2/models/NAME") from error
    if len(message.inputs) > 1 and len({tensor.name for tensor in message.inputs}) != len(message.inputs):
        raise UsageError("input-invalid", "two inputs have the same name", "give each input once")
    return InferRequest(message, dict(_pieces(message.inputs, rest)))


def encode(
    request: InferRequest,
    outputs: Mapping[str, Array],
    *,
    model_name: str,
    model_version: str,
    labels: Sequence[str] = (),
    parameters: Mapping[str, object] = MappingProxyType({}),
) -> InferResponse:
    """Encode the response with the outputs that the request names, all when it names none.

    Args:
        labels: of the classes, for outputs requested as classes.
        parameters: of the response.

    Raises:
        UsageError: `input-invalid`, for an output that the model doesn't have, or that has no classes.
    """
    message = request.message
    described: list[schemas.OutputTensor] = []
    tail: list[bytes] = []
    for requested in message.outputs or [RequestedOutput(name) for name in outputs]:
        values = _output(requested, outputs, labels)
        output: schemas.OutputTensor = {
            "name": requested.name,
            "datatype": tensors.datatype(values),
            "shape": list(values.shape),
        }
        in_binary = requested.parameters.binary_data
        if message.parameters.binary_data_output if in_binary is None else in_binary:
            data = tensors.to_binary(values)
            tail.append(data)
            output["parameters"] = {"binary_data_size": len(data)}
        else:
            output["data"] = tensors.to_json(values)
        described.append(output)
    response: schemas.Inferred = {"model_name": model_name, "model_version": model_version, "outputs": described}
    if message.id is not None:
        response["id"] = message.id
    if parameters:
        response["parameters"] = dict(parameters)
    head = msgspec.json.encode(response)
    return InferResponse(b"".join((head, *tail)), len(head) if tail else None)


def _pieces(tensors: Sequence[Tensor], rest: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Yield each binary input's name and bytes; no byte may be missing or left over."""
    at = 0
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - at:
            raise UsageError("input-invalid", f"input {tensor.name!r} has no {size!r} bytes behind the JSON")
        yield tensor.name, rest[at : at + size]
        at += size
    if at != len(rest):
        raise UsageError("input-invalid", f"{len(rest) - at} bytes behind the JSON belong to no input")


def _output(requested: RequestedOutput, outputs: Mapping[str, Array], labels: Sequence[str]) -> Array:
    values = outputs.get(requested.name)
    if values is None:
        raise UsageError("input-invalid", f"the model has no output {requested.name!r}", f"it has {sorted(outputs)}")
    count = requested.parameters.classification
    if not count:
        return values
    if not 0 < count <= CLASSES_MAX or not values.ndim or not values.shape[-1] or values.dtype.kind == "O":
        raise UsageError(
            "input-invalid",
            f"{requested.name!r} can't be returned as its {count} highest classes; the limit is {CLASSES_MAX}",
        )
    return tensors.top_classes(values, count, labels)
