"""The Open Inference Protocol at `/v2`: metadata, configuration and inference.

Repository and statistics are in `repository`.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; what clients
read of the health bodies: kserve 0.21 both `live` and `ready`, tritonclient the status only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from starlette.responses import Response

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import responses, schemas
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.oip import codec, tensors
from edgeml_agent.http_api.oip.codec import InferRequest, InferResponse
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.serve.calls import Infer, RequestInfo
from edgeml_agent.serve.models import Models
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Engine, Manifest, TensorSpec
from edgeml_core.processing import Classes, TensorInput, TokenClasses
from edgeml_runtime import requests
from edgeml_runtime.inputs import Prepared
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Item, Tensors, truncated
from edgeml_runtime.tensors import Array

#: Triton's extensions of the protocol that are served.
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "statistics",
)
PLATFORMS: Final[dict[Engine, str]] = {"onnxruntime": "onnx_onnxv1", "litert": "tflite_tflitev3"}
JSON_LENGTH_HEADER: Final = "inference-header-content-length"
_JSON_LENGTH: Final = JSON_LENGTH_HEADER.encode()
#: Digits of a length; no body's length has more, and Python refuses to parse thousands.
_LENGTH_MAX_CHARS: Final = 18
#: Content types; tritonclient sends none at all, or the last one.
_TYPES_READ: Final = frozenset({"", "application/json", "application/octet-stream"})


def endpoints(models: Models, info: ServerInfo) -> dict[str, Endpoint]:
    """The endpoints of metadata, configuration and inference."""

    async def server(_: Request) -> Response:
        about: schemas.ProtocolServer = {"name": "edgeml-agent", "version": info.version, "extensions": EXTENSIONS}
        return responses.json(about)

    async def metadata(request: Request) -> Response:
        return responses.json(_described(models.find(*_named(request)).manifest))

    async def config(request: Request) -> Response:
        return responses.json(_configured(models.find(*_named(request)).manifest))

    async def ready(request: Request) -> Response:
        served = models.find(*_named(request))
        if served.unloaded:
            raise UsageError("model-unknown", f"the model {served.manifest.name!r} is unloaded", "load it first")
        answer: schemas.ProtocolReady = {"name": served.manifest.name, "ready": True}
        return responses.json(answer)

    async def infer(request: Request) -> Response:
        name, version = _named(request)
        models.find(name, version)  # before a long body is read for nothing
        json_length = _json_length(request)
        body = await bodies.read(request)
        try:
            asked = await bodies.aside(len(body), partial(codec.decode, body, json_length))
        except UsageError as error:
            models.counts.add(name, error.code, 0.0)
            raise
        deadline_s = None if asked.timeout_s is None else time.monotonic() + asked.timeout_s
        info = RequestInfo(
            size_bytes=None if asked.has_several_elements else len(body), client=request.client, deadline_s=deadline_s
        )
        answer = await models.run(name, _call(asked), info, version=version)
        return await bodies.aside(len(answer.body), partial(_response, answer, request))

    return {
        "protocol_server": server,
        "protocol_model": metadata,
        "protocol_config": config,
        "protocol_ready": ready,
        "infer": infer,
    }


def _named(request: Request) -> tuple[str, str | None]:
    return request.params["name"], request.params.get("version")


def _json_length(request: Request) -> int | None:
    kind = request.content_type
    if kind not in _TYPES_READ:
        raise UsageError("content-unsupported", f"a body of type {kind!r} is not read", "send application/json")
    length = request.headers.get(_JSON_LENGTH)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) <= _LENGTH_MAX_CHARS):
        raise UsageError("input-invalid", f"{JSON_LENGTH_HEADER} is no length", "leave it out with JSON tensors")
    return None if length is None else int(length)


class _Inference:
    """One request to a model: makes its inputs, and writes its answer, where the model runs."""

    def __init__(self, asked: InferRequest) -> None:
        self._asked = asked
        self._cut = 0

    def prepare(self, model: Model) -> tuple[Sequence[Item], Prepared]:
        """Return the tensors as they came, or texts and files with the tensors made of them."""
        takes_tensors = isinstance(model.manifest.preprocess, TensorInput)
        elements = None if takes_tensors else self._asked.elements()
        if elements is None and not takes_tensors:
            return (), Prepared(self._asked.arrays(), ())
        items = [Tensors(self._asked.arrays())] if elements is None else _items(model, elements)
        prepared = model.prepare(items)
        self._cut = sum([truncated(about) is not None for about in prepared.about if about is not None])
        return items, prepared

    def write(self, model: Model, outputs: Mapping[str, Array]) -> InferResponse:
        """Write the response; it counts the texts or sounds that were longer than the model takes."""
        manifest = model.manifest
        return codec.encode(
            self._asked,
            outputs,
            model_name=manifest.name,
            model_version=manifest.version,
            labels=manifest.postprocess.labels if isinstance(manifest.postprocess, Classes | TokenClasses) else (),
            parameters={"truncated": self._cut} if self._cut else {},
        )


def _items(model: Model, elements: Sequence[bytes]) -> list[Item]:
    """Make items of texts or files, for the model's own preprocessing."""
    return requests.collect(requests.from_bytes(element, model.manifest) for element in elements)


def _call(asked: InferRequest) -> Infer[InferResponse]:
    inference = _Inference(asked)
    return Infer(prepare=inference.prepare, write=inference.write)


def _response(answer: InferResponse, request: Request) -> Response:
    response = responses.json_bytes(answer.body)
    if answer.json_length is not None:
        response.headers["content-type"] = "application/octet-stream"
        response.headers[JSON_LENGTH_HEADER] = str(answer.json_length)
    return responses.packed(response, request)


def _described(manifest: Manifest) -> schemas.ProtocolModel:
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": PLATFORMS[manifest.runtime.engine],
        "inputs": _signature(manifest.inputs),
        "outputs": _signature(manifest.outputs),
    }


def _signature(specs: Sequence[TensorSpec]) -> list[schemas.Signed]:
    return [{"name": spec.name, "datatype": tensors.DATATYPES[spec.dtype], "shape": list(spec.shape)} for spec in specs]


def _configured(manifest: Manifest) -> schemas.ProtocolConfig:
    """The model's configuration, in Triton's terms."""
    return {
        "name": manifest.name,
        "platform": PLATFORMS[manifest.runtime.engine],
        "backend": manifest.runtime.engine,
        "max_batch_size": 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": _dimensions(manifest.inputs),
        "output": _dimensions(manifest.outputs),
    }


def _dimensions(specs: Sequence[TensorSpec]) -> list[schemas.Dimensions]:
    return [
        {"name": spec.name, "data_type": f"TYPE_{tensors.DATATYPES[spec.dtype]}", "dims": list(spec.shape)}
        for spec in specs
    ]
