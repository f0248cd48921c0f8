"""The Open Inference Protocol's door at `/v2`: health, metadata and inference with JSON tensors.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; what clients
read of the health bodies: kserve 0.21 both `live` and `ready`, tritonclient the status only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeml_agent.serve import body as bodies
from edgeml_agent.serve import health, oip_codec, responses
from edgeml_agent.serve.health import ServerInfo
from edgeml_agent.serve.leaving import unless_left
from edgeml_agent.serve.models import Models
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Engine, Manifest, TensorSpec
from edgeml_runtime.model import Model

#: Extensions of the protocol that are served; `binary_tensor_data` and `model_repository` are not yet among them.
EXTENSIONS: Final[tuple[str, ...]] = ()
PLATFORMS: Final[dict[Engine, str]] = {"onnxruntime": "onnx_onnxv1", "litert": "tflite_tflitev3"}
JSON_LENGTH_HEADER: Final = "inference-header-content-length"
#: tritonclient sends no type at all, or the last one.
_TYPES_READ: Final = frozenset({"", "application/json", "application/octet-stream"})


def routes(models: Models, info: ServerInfo) -> list[Route]:
    """The routes of this door."""

    async def server(_: Request) -> Response:
        return responses.json({"name": "edgeml-agent", "version": info.version, "extensions": EXTENSIONS})

    async def metadata(request: Request) -> Response:
        return responses.json(_described(models.find(*_asked(request)).manifest))

    async def ready(request: Request) -> Response:
        return responses.json({"name": models.find(*_asked(request)).manifest.name, "ready": True})

    async def infer(request: Request) -> Response:
        name, version = _asked(request)
        models.find(name, version)  # before a long body is read for nothing
        json_length = _json_length(request)
        body = await bodies.read(request)
        answer = partial(_answer, body=body, json_length=json_length)
        return responses.json_bytes(await unless_left(request, models.run(name, answer, version=version)))

    per_model = (("", metadata, "GET"), ("/ready", ready, "GET"), ("/infer", infer, "POST"))
    return [
        Route("/v2", server, methods=["GET"]),
        *health.routes(info, root="/v2/health"),
        *(
            Route(f"/v2/models/{{name}}{version}{ending}", endpoint, methods=[method])
            for version in ("", "/versions/{version}")
            for ending, endpoint, method in per_model
        ),
    ]


def _asked(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _json_length(request: Request) -> int | None:
    kind = bodies.content_type(request)
    if kind not in _TYPES_READ:
        raise UsageError("content-unsupported", f"a body of type {kind!r} is not read", "send application/json")
    length = request.headers.get(JSON_LENGTH_HEADER)
    if length is not None and not length.isdecimal():
        raise UsageError("input-invalid", f"{JSON_LENGTH_HEADER} is not a number", "leave it out with JSON tensors")
    return None if length is None else int(length)


def _answer(model: Model, body: bytes, json_length: int | None) -> bytes:
    request = oip_codec.decode(body, json_length)
    outputs = model.infer(request.arrays())
    manifest = model.manifest
    return oip_codec.encode(request, outputs, model_name=manifest.name, model_version=manifest.version)


def _described(manifest: Manifest) -> dict[str, object]:
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": PLATFORMS[manifest.runtime.engine],
        "inputs": _signature(manifest.inputs),
        "outputs": _signature(manifest.outputs),
    }


def _signature(specs: Sequence[TensorSpec]) -> list[dict[str, object]]:
    return [
        {"name": spec.name, "datatype": oip_codec.DATATYPES[spec.dtype], "shape": list(spec.shape)} for spec in specs
    ]
