"""The operation table: each path and method of the HTTP APIs, its endpoint, its bodies, its errors. No HTTP here.

Routes and the OpenAPI document are made from it. Bodies are the types that the APIs read and write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, get_args

from edgeml_agent.http_api import errors, page, predict, schemas
from edgeml_agent.http_api.errors import ErrorForm
from edgeml_agent.http_api.oip import repository
from edgeml_agent.http_api.oip.codec import InferMessage
from edgeml_agent.http_api.oip.routes import JSON_LENGTH_HEADER
from edgeml_agent.http_api.openai.requests import ChatRequest, CompletionRequest, EmbeddingsRequest
from edgeml_agent.http_api.openai.responses import ResponsesRequest
from edgeml_agent.http_api.openai.transcriptions import FILE_FIELD, ResponseForm
from edgeml_agent.http_api.page import view_model
from edgeml_agent.http_api.reply import ReplyRequest
from edgeml_runtime import requests

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
Schema: TypeAlias = Mapping[str, Any]
#: A body: a type of the code; a schema, where there is no type; None, where OpenAPI 3.1 has no schema for it.
Body: TypeAlias = type | Schema | None

TEXT: Final[Schema] = {"type": "string"}
FILE: Final[Schema] = {"type": "string", "format": "binary"}
NOTHING: Final[Schema] = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One path by one method.

    Attributes:
        path: exact, or with `{names}` for parts without a slash.
        endpoint: the name by which its API gives the function that answers.
        takes: bodies by media type; none where it reads no body.
        needs_body: whether an empty body is refused.
        gives: bodies of the answer by media type.
        fails: codes of this operation's own errors; all operations share those of the gateway and of connections.
        error_form: how its errors are written.
        is_public: whether it needs no token: a watchdog's questions, and the page's files.
        waits: whether it waits until the models of the last run are loaded.
        is_cancellable: whether it is cancelled when its client disconnects.
        tells_readiness: whether it answers 503, with the same body, while models are being loaded.
        has_tag: whether it answers 304 to a client that has the current version.
        headers: that it reads, by name.
    """

    method: str
    path: str
    endpoint: str
    summary: str
    gives: Mapping[str, Body]
    takes: Mapping[str, Body] = field(default_factory=dict)
    needs_body: bool = True
    fails: tuple[str, ...] = ()
    error_form: ErrorForm = errors.OWN
    is_public: bool = False
    waits: bool = True
    is_cancellable: bool = False
    tells_readiness: bool = False
    has_tag: bool = False
    headers: Mapping[str, Schema] = field(default_factory=dict)

    @property
    def methods(self) -> frozenset[str]:
        """The methods of HTTP that it answers: HEAD wherever GET."""
        return frozenset({"GET", "HEAD"} if self.method == "get" else {self.method.upper()})


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
_RECORDING: Final[Schema] = {
    "type": "object",
    "properties": {
        FILE_FIELD: FILE,
        "model": TEXT,
        "language": TEXT,
        "response_format": {"enum": [*get_args(ResponseForm)]},
        "temperature": {"const": 0},
    },
    "required": [FILE_FIELD, "model"],
}
_LENGTH: Final[Schema] = {
    "description": "the length of the JSON in front of tensors' bytes",
    "schema": {"type": "integer", "minimum": 0},
}


def _tasks() -> Iterator[Operation]:
    yield Operation(
        method="get",
        path="/v1/models",
        endpoint="list_models",
        summary="The models served here.",
        gives={JSON: schemas.ListedModels},
    )
    yield Operation(
        method="get",
        path="/v1/models/{name}",
        endpoint="describe_model",
        summary="One model.",
        gives={JSON: schemas.ListedModel},
        fails=("model-unknown",),
    )
    yield Operation(
        method="post",
        path="/v1/models/{name}/predict",
        endpoint="predict",
        summary="A model's answer to one item, or to each in a list.",
        takes={JSON: _ITEMS, "multipart/form-data": _FORM, "image/*": FILE},
        gives={JSON: schemas.Predicted},
        fails=(*_RUNNING, "prompt-too-long"),
        is_cancellable=True,
    )
    yield Operation(
        method="post",
        path="/chat",
        endpoint="reply",
        summary="A model's reply to one message; the conversation before it is in the request.",
        takes={JSON: ReplyRequest},
        gives={JSON: schemas.Reply},
        fails=(*_RUNNING, "prompt-too-long"),
        is_cancellable=True,
    )


def _openai() -> Iterator[Operation]:
    generation: tuple[tuple[str, str, str, type, type], ...] = (
        ("/v1/chat/completions", "chat", "A model's next message in a chat.", ChatRequest, schemas.ChatCompletion),
        ("/v1/completions", "complete", "A model's continuation of a text.", CompletionRequest, schemas.Completion),
        ("/v1/responses", "respond", "A model's next message; nothing is stored.", ResponsesRequest, schemas.Responded),
    )
    for path, endpoint, summary, request, answer in generation:
        yield Operation(
            method="post",
            path=path,
            endpoint=endpoint,
            summary=summary,
            takes={JSON: request},
            gives={JSON: answer, "text/event-stream": None},
            fails=(*_RUNNING, "prompt-too-long"),
            error_form=errors.OPENAI,
            is_cancellable=True,
        )
    yield Operation(
        method="post",
        path="/v1/embeddings",
        endpoint="embed",
        summary="A vector for each text.",
        takes={JSON: EmbeddingsRequest},
        gives={JSON: schemas.Embeddings},
        fails=_RUNNING,
        error_form=errors.OPENAI,
        is_cancellable=True,
    )
    yield Operation(
        method="post",
        path="/v1/audio/transcriptions",
        endpoint="transcribe",
        summary="The text of a sound: a WAV file, with the extra `sound` also FLAC, OGG or MP3.",
        takes={"multipart/form-data": _RECORDING},
        gives={JSON: {"anyOf": [schemas.Transcription, schemas.VerboseTranscription]}, "text/plain": TEXT},
        fails=_RUNNING,
        error_form=errors.OPENAI,
        is_cancellable=True,
    )


def _protocol() -> Iterator[Operation]:
    yield Operation(
        method="get",
        path="/v2",
        endpoint="protocol_server",
        summary="The server's metadata.",
        gives={JSON: schemas.ProtocolServer},
        error_form=errors.PROTOCOL,
    )
    for version in ("", "/versions/{version}"):
        per_model: tuple[tuple[str, str, str, type], ...] = (
            ("", "protocol_model", "A model's metadata.", schemas.ProtocolModel),
            ("/config", "protocol_config", "A model's configuration in Triton's terms.", schemas.ProtocolConfig),
            ("/ready", "protocol_ready", "Whether a model answers.", schemas.ProtocolReady),
            ("/stats", "statistics", "Counts and times of requests to a model.", schemas.Statistics),
        )
        for ending, endpoint, summary, answer in per_model:
            yield Operation(
                method="get",
                path=f"/v2/models/{{name}}{version}{ending}",
                endpoint=endpoint,
                summary=summary,
                gives={JSON: answer},
                fails=("model-unknown",),
                error_form=errors.PROTOCOL,
            )
        yield Operation(
            method="post",
            path=f"/v2/models/{{name}}{version}/infer",
            endpoint="infer",
            summary="A model's outputs for tensors, or for texts or files as BYTES.",
            takes={JSON: InferMessage, BINARY: FILE},
            gives={JSON: schemas.Inferred, BINARY: FILE},
            fails=(*_RUNNING, "deadline-exceeded"),
            error_form=errors.PROTOCOL,
            is_cancellable=True,
            headers={JSON_LENGTH_HEADER: _LENGTH},
        )


def _repository() -> Iterator[Operation]:
    yield Operation(
        method="get",
        path="/v2/models/stats",
        endpoint="statistics",
        summary="Counts and times of requests to all models.",
        gives={JSON: schemas.Statistics},
        error_form=errors.PROTOCOL,
    )
    yield Operation(
        method="post",
        path="/v2/repository/index",
        endpoint="index",
        summary="The models that this device was given.",
        takes={JSON: repository.Index},
        needs_body=False,
        gives={JSON: {"type": "array", "items": schemas.Indexed}},
        fails=_READING,
        error_form=errors.PROTOCOL,
    )
    for verb, summary in (("load", "Load a model, if it isn't."), ("unload", "Free a model's memory.")):
        yield Operation(
            method="post",
            path=f"/v2/repository/models/{{name}}/{verb}",
            endpoint=verb,
            summary=summary,
            takes={JSON: repository.Change},
            needs_body=False,
            gives={JSON: NOTHING},
            fails=_RUNNING,
            error_form=errors.PROTOCOL,
        )


def _watching() -> Iterator[Operation]:
    for path, endpoint, summary, form in (
        ("/health", "live", "Whether it lives, and is ready.", errors.OWN),
        ("/health/live", "live", "Whether it lives.", errors.OWN),
        ("/health/ready", "ready", "Whether it is ready.", errors.OWN),
        ("/v2/health/live", "live", "Whether it lives.", errors.PROTOCOL),
        ("/v2/health/ready", "ready", "Whether it is ready.", errors.PROTOCOL),
    ):
        yield Operation(
            method="get",
            path=path,
            endpoint=endpoint,
            summary=summary,
            gives={JSON: schemas.Health},
            error_form=form,
            is_public=True,
            waits=False,
            tells_readiness=endpoint == "ready",
        )
    yield Operation(
        method="get",
        path="/metrics",
        endpoint="metrics",
        summary="All counts, in Prometheus' text format.",
        gives={"text/plain": TEXT},
    )
    yield Operation(
        method="get",
        path="/openapi.json",
        endpoint="document",
        summary="This document.",
        gives={JSON: {"type": "object"}},
    )


def _page() -> Iterator[Operation]:
    yield Operation(
        method="get",
        path="/page/models",
        endpoint="page_models",
        summary="The content of the page at /.",
        gives={JSON: view_model.Everything},
        waits=False,
    )
    for path, name in page.FILES.items():
        yield Operation(
            method="get",
            path=path,
            endpoint="page_file",
            summary="A file of the page.",
            gives={page.media_type(name): TEXT},
            is_public=True,
            waits=False,
            has_tag=True,
        )


#: The operations of each API by its name, as the document groups them.
APIS: Final[Mapping[str, tuple[Operation, ...]]] = {
    "tasks": tuple(_tasks()),
    "OpenAI": tuple(_openai()),
    "Open Inference Protocol": (*_protocol(), *_repository()),
    "watching": tuple(_watching()),
    "page": tuple(_page()),
}
