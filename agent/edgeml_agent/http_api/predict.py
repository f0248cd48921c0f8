"""The task API: `POST /v1/models/NAME/predict`, `GET /v1/models[/NAME]`. Text or an image in, labels and scores out.

It parses a body into the runtime's items; the runtime computes the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from starlette.responses import Response

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import json_body, responses, schemas
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.serve.calls import Predict, RequestInfo
from edgeml_agent.serve.models import Models, Served
from edgeml_core.errors import UsageError
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Image, Item

#: The part of a form that holds the image: curl -F image=@cat.jpg
IMAGE_FIELD: Final = "image"

#: curl sends the second type by default. The gateway has refused a page of another origin that posts it.
JSON_TYPES: Final = ("application/json", "application/x-www-form-urlencoded", "")

#: Parses a body into the items of a model.
Parse = Callable[[Model, bytes], Sequence[Item]]


def endpoints(models: Models) -> dict[str, Endpoint]:
    """The endpoints of the task API."""

    async def list_models(_: Request) -> Response:
        data = [_described(name, live) for name, live in sorted(models.active().items())]
        return responses.json({"object": "list", "data": data})

    async def describe_model(request: Request) -> Response:
        name = request.params["name"]
        return responses.json(_described(name, models.find(name)))

    async def predict(request: Request) -> Response:
        name = request.params["name"]
        models.find(name)  # before a long body is read for nothing
        parse = _parser(request)
        body = await bodies.read(request)
        call = Predict(parse=lambda model: parse(model, body), write=_written)
        # Each item in a list takes a run's time, though the list be short.
        size_bytes = None if body.lstrip().startswith(b"[") else len(body)
        info = RequestInfo(size_bytes=size_bytes, client=request.client)
        return responses.json_bytes(await models.run(name, call, info))

    return {"list_models": list_models, "describe_model": describe_model, "predict": predict}


def _described(name: str, live: Served) -> schemas.ListedModel:
    """One model; the first four fields are the ones that OpenAI's client requires."""
    manifest = live.manifest
    return {
        "id": name,
        "object": "model",
        "created": int(live.activated_at),
        "owned_by": "edgeml",
        "version": manifest.version,
        "task": manifest.task,
        "target": manifest.target,
        "format": manifest.file_format,
        "deployment": live.deployment,
    }


def _parser(request: Request) -> Parse:
    """Choose how to parse the body by its type; parsing itself runs where the model does."""
    kind = request.content_type
    if kind in JSON_TYPES:
        return _json
    if kind.startswith("image/"):
        return _image
    if kind == "multipart/form-data":
        header = request.headers.get(b"content-type", "")
        return lambda model, body: _image(model, bodies.form_field(body, header, IMAGE_FIELD))
    raise UsageError("content-unsupported", f"a body of type {kind!r} is not read", "send JSON or an image")


def _json(model: Model, body: bytes) -> Sequence[Item]:
    try:
        value = json_body.decode(body)
    except ValueError as error:
        hint = 'send one object such as {"text": "..."}, or a list of them'
        raise UsageError("input-invalid", f"the body is not JSON: {error}", hint) from error
    return model.parse(value)


def _image(_: Model, content: bytes) -> Sequence[Item]:
    return [Image(data=content)]


def _written(model: Model, outputs: Sequence[Answer]) -> bytes:
    manifest = model.manifest
    answer: schemas.Predicted = {"model": manifest.name, "version": manifest.version, "outputs": list(outputs)}
    return msgspec.json.encode(answer)
