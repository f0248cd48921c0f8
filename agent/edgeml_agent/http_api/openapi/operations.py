"""Every path and method of the HTTP doors: what it takes, what it answers, how it refuses. A table, and no HTTP.

Bodies are the types that the doors read and write. A test holds the table against the application's routes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from edgeml_agent.http_api import openapi, page, predict, schemas
from edgeml_agent.http_api.oip import repository
from edgeml_agent.http_api.oip.codec import InferMessage
from edgeml_agent.http_api.oip.routes import JSON_LENGTH_HEADER
from edgeml_agent.http_api.openai.requests import ChatRequest, CompletionRequest, EmbeddingsRequest
from edgeml_agent.http_api.page import view_model
from edgeml_runtime import requests

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
Schema: TypeAlias = Mapping[str, Any]
#: A body: a type of the code, a schema where no type says it, or None where OpenAPI 3.1 has no schema for it.
Body: TypeAlias = type | Schema | None

TEXT: Final[Schema] = {"type": "string"}
FILE: Final[Schema] = {"type": "string", "format": "binary"}
NOTHING: Final[Schema] = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One path by one method.

    Attributes:
        takes: bodies by media type; none where it reads no body.
        needs_body: whether an empty one is refused.
        gives: bodies of the answer by media type.
        fails: codes of the errors that are this operation's own; all share those of `access` and of connections.
        tells_readiness: whether it answers 503, with the same body, while models are being loaded.
        has_tag: whether it answers 304 to who holds what it would give.
        headers: that it reads, by name.
    """

    method: str
    path: str
    summary: str
    gives: Mapping[str, Body]
    takes: Mapping[str, Body] = field(default_factory=dict)
    needs_body: bool = True
    fails: tuple[str, ...] = ()
    tells_readiness: bool = False
    has_tag: bool = False
    headers: Mapping[str, Schema] = field(default_factory=dict)


_READING: Final = ("input-invalid", "body-too-large", "content-unsupported", "overloaded")
_RUNNING: Final = (*_READING, "model-unknown")
_ITEM: Final[Schema] = {"anyOf": [*requests.KINDS]}
_ITEMS: Final[Schema] = {
    "anyOf": [
        *requests.KINDS,
        {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": requests.ITEMS_MAX},
    ]
}
_FORM: Final[Schema] = {
    "type": "object",
    "properties": {predict.IMAGE_FIELD: FILE},
    "required": [predict.IMAGE_FIELD],
}
_LENGTH: Final[Schema] = {
    "description": "the length of the JSON in front of tensors' bytes",
    "schema": {"type": "integer", "minimum": 0},
}


def _tasks() -> Iterator[Operation]:
    yield Operation(
        method="get", path="/v1/models", summary="The models served here.", gives={JSON: schemas.ListedModels}
    )
    yield Operation(
        method="get",
        path="/v1/models/{name}",
        summary="One model.",
        gives={JSON: schemas.ListedModel},
        fails=("model-unknown",),
    )
    yield Operation(
        method="post",
        path="/v1/models/{name}/predict",
        summary="What a model makes of one item, or of each in a list.",
        takes={JSON: _ITEMS, "multipart/form-data": _FORM, "image/*": FILE},
        gives={JSON: schemas.Predicted},
        fails=(*_RUNNING, "prompt-too-long"),
    )


def _openai() -> Iterator[Operation]:
    written: tuple[tuple[str, str, type, type], ...] = (
        ("/v1/chat/completions", "What a model says next in a chat.", ChatRequest, schemas.ChatCompletion),
        ("/v1/completions", "How a model goes on with a text.", CompletionRequest, schemas.Completion),
    )
    for path, summary, asked, answer in written:
        yield Operation(
            method="post",
            path=path,
            summary=summary,
            takes={JSON: asked},
            gives={JSON: answer, "text/event-stream": None},
            fails=(*_RUNNING, "prompt-too-long"),
        )
    yield Operation(
        method="post",
        path="/v1/embeddings",
        summary="A vector for each text.",
        takes={JSON: EmbeddingsRequest},
        gives={JSON: schemas.Embeddings},
        fails=_RUNNING,
    )


def _protocol() -> Iterator[Operation]:
    yield Operation(method="get", path="/v2", summary="The server's metadata.", gives={JSON: schemas.ProtocolServer})
    for version in ("", "/versions/{version}"):
        per_model: tuple[tuple[str, str, type], ...] = (
            ("", "A model's metadata.", schemas.ProtocolModel),
            ("/config", "A model's configuration in Triton's terms.", schemas.ProtocolConfig),
            ("/ready", "Whether a model answers.", schemas.ProtocolReady),
            ("/stats", "How requests to a model went.", schemas.Statistics),
        )
        for ending, summary, answer in per_model:
            path = f"/v2/models/{{name}}{version}{ending}"
            yield Operation(method="get", path=path, summary=summary, gives={JSON: answer}, fails=("model-unknown",))
        yield Operation(
            method="post",
            path=f"/v2/models/{{name}}{version}/infer",
            summary="A model's outputs for tensors, or for texts or files as BYTES.",
            takes={JSON: InferMessage, BINARY: FILE},
            gives={JSON: schemas.Inferred, BINARY: FILE},
            fails=(*_RUNNING, "deadline-exceeded"),
            headers={JSON_LENGTH_HEADER: _LENGTH},
        )


def _repository() -> Iterator[Operation]:
    yield Operation(
        method="get",
        path="/v2/models/stats",
        summary="How requests to all models went.",
        gives={JSON: schemas.Statistics},
    )
    yield Operation(
        method="post",
        path="/v2/repository/index",
        summary="The models that this device was given.",
        takes={JSON: repository.Index},
        needs_body=False,
        gives={JSON: {"type": "array", "items": schemas.Indexed}},
        fails=_READING,
    )
    for verb, summary in (("load", "Load a model, if it isn't."), ("unload", "Free a model's memory.")):
        yield Operation(
            method="post",
            path=f"/v2/repository/models/{{name}}/{verb}",
            summary=summary,
            takes={JSON: repository.Change},
            needs_body=False,
            gives={JSON: NOTHING},
            fails=_RUNNING,
        )


def _watching() -> Iterator[Operation]:
    health = {JSON: schemas.Health}
    yield Operation(method="get", path="/health", summary="Whether it lives, and is ready.", gives=health)
    for root in ("/health", "/v2/health"):
        yield Operation(method="get", path=f"{root}/live", summary="Whether it lives.", gives=health)
        yield Operation(
            method="get", path=f"{root}/ready", summary="Whether it is ready.", gives=health, tells_readiness=True
        )
    yield Operation(
        method="get", path="/metrics", summary="All counts, in Prometheus' text format.", gives={"text/plain": TEXT}
    )
    yield Operation(method="get", path=openapi.PATH, summary="This document.", gives={JSON: {"type": "object"}})


def _page() -> Iterator[Operation]:
    yield Operation(
        method="get", path=page.MODELS, summary="What the page at / shows.", gives={JSON: view_model.Everything}
    )
    for path, name in page.FILES.items():
        gives = {page.media_type(name): TEXT}
        yield Operation(method="get", path=path, summary="A file of the page.", gives=gives, has_tag=True)


#: Doors by name, as the document groups their paths.
DOORS: Final[Mapping[str, tuple[Operation, ...]]] = {
    "tasks": tuple(_tasks()),
    "OpenAI": tuple(_openai()),
    "Open Inference Protocol": (*_protocol(), *_repository()),
    "watching": tuple(_watching()),
    "page": tuple(_page()),
}
