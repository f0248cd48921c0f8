"""The Open Inference Protocol's door at `/v2`: health, metadata, configuration and inference.

What is beyond one model's inference, the repository and statistics, is in `oip_repository`.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; what clients
read of the health bodies: kserve 0.21 both `live` and `ready`, tritonclient the status only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import health, responses, schemas
from edgeml_agent.http_api.asgi import headers
from edgeml_agent.http_api.disconnect import unless_left
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.oip import codec, repository, tensors
from edgeml_agent.http_api.oip.codec import InferRequest, InferResponse
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import Infer
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
#: More digits than any body's length has; Python reads no more than a few thousand.
_LENGTH_MAX_CHARS: Final = 18
#: tritonclient sends no type at all, or the last one.
_TYPES_READ: Final = frozenset({"", "application/json", "application/octet-stream"})


def routes(models: Models, info: ServerInfo) -> list[Route]:
    """The routes of this door."""

    async def server(_: Request) -> Response:
        about: schemas.ProtocolServer = {"name": "edgeml-agent", "version": info.version, "extensions": EXTENSIONS}
        return responses.json(about)

    async def metadata(request: Request) -> Response:
        return responses.json(_described(models.find(*_asked(request)).manifest))

    async def config(request: Request) -> Response:
        return responses.json(_configured(models.find(*_asked(request)).manifest))

    async def ready(request: Request) -> Response:
        served = models.find(*_asked(request))
        if served.unloaded:
            raise UsageError("model-unknown", f"the model {served.manifest.name!r} is unloaded", "load it first")
        answer: schemas.ProtocolReady = {"name": served.manifest.name, "ready": True}
        return responses.json(answer)

    infer = Inferences(models)
    per_model = (("", metadata), ("/config", config), ("/ready", ready))
    versions = ("", "/versions/{version}")
    # What is asked most is looked up first.
    return [
        *(Route(f"/v2/models/{{name}}{version}/infer", infer, methods=["POST"]) for version in versions),
        Route("/v2", server, methods=["GET"]),
        *health.routes(info, root="/v2/health"),
        *repository.routes(models),
        *(
            Route(f"/v2/models/{{name}}{version}{ending}", endpoint, methods=["GET"])
            for version in versions
            for ending, endpoint in per_model
        ),
    ]


class Inferences:
    """The endpoint of inference."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """See `asgi.Application`; the body isn't packed."""
        path = scope["path_params"]
        turn = self._models.turn(path["name"], path.get("version"), size_bytes=len(body))
        if turn is None:
            return None
        with turn as model:
            asked = codec.decode(body, _json_length(scope))
            return _response(_call(asked)(model), scope)

    async def __call__(self, request: Request) -> Response:
        """The answer to a request for inference."""
        scope, (name, version) = request.scope, _asked(request)
        self._models.find(name, version)  # before a long body is read for nothing
        json_length = _json_length(scope)
        body = await bodies.read(request)
        if response := self.at_once(scope, body):
            return response
        try:
            asked = await bodies.aside(len(body), partial(codec.decode, body, json_length))
        except UsageError as error:
            self._models.counts.add(name, error.code, 0.0)
            raise
        deadline_s = None if asked.timeout_s is None else time.monotonic() + asked.timeout_s
        answering = self._models.run(name, _call(asked), version=version, deadline_s=deadline_s, size_bytes=len(body))
        answer = await unless_left(request, answering)
        return await bodies.aside(len(answer.body), partial(_response, answer, scope))


def _asked(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _json_length(scope: Scope) -> int | None:
    kind = bodies.content_type(scope)
    if kind not in _TYPES_READ:
        raise UsageError("content-unsupported", f"a body of type {kind!r} is not read", "send application/json")
    length = headers(scope).get(_JSON_LENGTH)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) <= _LENGTH_MAX_CHARS):
        raise UsageError("input-invalid", f"{JSON_LENGTH_HEADER} is no length", "leave it out with JSON tensors")
    return None if length is None else int(length)


class _Inference:
    """One request at a model, in the model's thread: what it is run on, and what is answered."""

    def __init__(self, asked: InferRequest) -> None:
        self._asked = asked
        self._cut = 0

    def prepare(self, model: Model) -> tuple[Sequence[Item], Prepared]:
        """The inputs as the model takes them, or texts and files and what is made of them."""
        elements = self._asked.elements()
        if elements is None and not isinstance(model.manifest.preprocess, TensorInput):
            return (), Prepared(self._asked.arrays(), ())
        items = [Tensors(self._asked.arrays())] if elements is None else _items(model, elements)
        prepared = model.prepare(items)
        self._cut = sum([truncated(about) is not None for about in prepared.about if about is not None])
        return items, prepared

    def write(self, model: Model, outputs: Mapping[str, Array]) -> InferResponse:
        """The response; it says how many texts or sounds were longer than the model takes."""
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
    """Texts or files, for the model's own preprocessing."""
    requests.check_count(len(elements))
    return [requests.from_bytes(element, model.manifest) for element in elements]


def _call(asked: InferRequest) -> Infer[InferResponse]:
    inference = _Inference(asked)
    return Infer(prepare=inference.prepare, write=inference.write)


def _response(answer: InferResponse, scope: Scope) -> Response:
    response = responses.json_bytes(answer.body)
    if answer.json_length is not None:
        response.headers["content-type"] = "application/octet-stream"
        response.headers[JSON_LENGTH_HEADER] = str(answer.json_length)
    return responses.packed(response, scope)


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
