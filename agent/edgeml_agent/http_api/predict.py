"""The task door: `POST /v1/models/NAME/predict`, `GET /v1/models[/NAME]`. Text or an image in, labels and scores out.

Parses a body into the runtime's items once; what a task makes of them is the runtime's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import responses, schemas
from edgeml_agent.http_api.asgi import headers
from edgeml_agent.http_api.disconnect import unless_left
from edgeml_agent.serve.models import Models, Served
from edgeml_agent.serve.worker import Predict
from edgeml_core.errors import UsageError
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Image, Item

#: The part of a form that holds the image: curl -F image=@cat.jpg
IMAGE_FIELD: Final = "image"

#: The second is what curl says when it is told nothing; a page of another origin that posts it is refused before.
JSON_TYPES: Final = ("application/json", "application/x-www-form-urlencoded", "")

#: A model and a body to the items in it.
Parse = Callable[[Model, bytes], Sequence[Item]]


def routes(models: Models) -> list[Route]:
    """The routes of this door."""

    async def listing(_: Request) -> Response:
        data = [_described(name, live) for name, live in sorted(models.active().items())]
        return responses.json({"object": "list", "data": data})

    async def described(request: Request) -> Response:
        name = request.path_params["name"]
        return responses.json(_described(name, models.find(name)))

    return [
        Route("/v1/models/{name}/predict", Predictions(models), methods=["POST"]),
        Route("/v1/models", listing, methods=["GET"]),
        Route("/v1/models/{name}", described, methods=["GET"]),
    ]


class Predictions:
    """The endpoint of predictions."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """See `asgi.Application`; the body isn't packed."""
        turn = self._models.turn(scope["path_params"]["name"], size_bytes=len(body))
        if turn is None:
            return None
        with turn as model:
            return responses.json_bytes(_call(scope, body)(model))

    async def __call__(self, request: Request) -> Response:
        """The answer to a task's request."""
        scope, name = request.scope, request.path_params["name"]
        self._models.find(name)  # before a long body is read for nothing
        _parser(scope)
        body = await bodies.read(request)
        if response := self.at_once(scope, body):
            return response
        answering = self._models.run(name, _call(scope, body), size_bytes=len(body))
        return responses.json_bytes(await unless_left(request, answering))


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


def _call(scope: Scope, body: bytes) -> Predict[bytes]:
    parse = _parser(scope)
    return Predict(parse=lambda model: parse(model, body), write=_written)


def _parser(scope: Scope) -> Parse:
    """How to read the body, by its type; chosen on the event loop, run in the model's thread."""
    kind = bodies.content_type(scope)
    if kind in JSON_TYPES:
        return _json
    if kind.startswith("image/"):
        return _image
    if kind == "multipart/form-data":
        header = headers(scope).get(b"content-type", "")
        return lambda model, body: _image(model, bodies.form_field(body, header, IMAGE_FIELD))
    raise UsageError("content-unsupported", f"a body of type {kind!r} is not read", "send JSON or an image")


def _json(model: Model, body: bytes) -> Sequence[Item]:
    try:
        return model.parse(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = 'send one object such as {"text": "..."}, or a list of them'
        raise UsageError("input-invalid", f"the body is not JSON: {error}", hint) from error


def _image(_: Model, content: bytes) -> Sequence[Item]:
    return [Image(data=content)]


def _written(model: Model, outputs: Sequence[Answer]) -> bytes:
    manifest = model.manifest
    said: schemas.Predicted = {"model": manifest.name, "version": manifest.version, "outputs": list(outputs)}
    return msgspec.json.encode(said)
