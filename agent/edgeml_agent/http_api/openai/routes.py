"""OpenAI's API: chats, completions, responses, embeddings, transcriptions.

`requests` parses the bodies, `answers` gives the answers their form; `responses` and `transcriptions` do both for their
paths. `/v1/models` is in `predict`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

import msgspec
import numpy as np
from starlette.responses import Response

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import responses, schemas
from edgeml_agent.http_api.openai import requests, transcriptions
from edgeml_agent.http_api.openai.answers import CHAT, COMPLETION, Events, Form, Piece, Written
from edgeml_agent.http_api.openai.errors import FieldError
from edgeml_agent.http_api.openai.requests import ChatRequest, CompletionRequest, EmbeddingsRequest
from edgeml_agent.http_api.openai.responses import Answered, ResponsesRequest
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.serve.calls import Predict, RequestInfo
from edgeml_agent.serve.models import Models
from edgeml_core.errors import UsageError
from edgeml_core.processing import Embedding, TextInput
from edgeml_runtime.generate.options import FormatError, ToolError
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Chat, EmbeddingAnswer, Prompt, Text, TokenDelta

if TYPE_CHECKING:
    from edgeml_runtime.generate.conversation import Conversation

_FLOAT: Final = np.dtype("<f4")
_Body = TypeVar("_Body", bound=msgspec.Struct)


def endpoints(models: Models) -> dict[str, Endpoint]:
    """The endpoints of this API."""

    async def chat(request: Request) -> Response:
        return await _write(request, models, await _read(request, ChatRequest), CHAT)

    async def complete(request: Request) -> Response:
        return await _write(request, models, await _read(request, CompletionRequest), COMPLETION)

    async def respond(request: Request) -> Response:
        asked = await _read(request, ResponsesRequest)
        generate = partial(_generate, asked.item(), asked.format_field)
        pieces = models.stream(asked.model, generate, RequestInfo(client=request.client))
        answered = Answered(request=asked)
        if asked.stream:
            return Events(answered.events(await anext(pieces), pieces))
        return responses.json(answered.whole([piece async for piece in pieces]))

    async def embed(request: Request) -> Response:
        asked = await _read(request, EmbeddingsRequest)
        texts = asked.items()
        call = Predict(parse=lambda model: _embeddable(texts, model), write=lambda _, made: _embedded(asked, made))
        return responses.json_bytes(await models.run(asked.model, call, RequestInfo(client=request.client)))

    async def transcribe(request: Request) -> Response:
        transcriptions.check_type(request)
        body, header = await bodies.read(request), request.headers.get(b"content-type", "")
        recording = await bodies.aside(len(body), partial(transcriptions.read, body, header))
        call = Predict(parse=recording.items, write=recording.written)
        info = RequestInfo(size_bytes=len(body), client=request.client)
        return recording.response(await models.run(recording.request.model, call, info))

    return {"chat": chat, "complete": complete, "respond": respond, "embed": embed, "transcribe": transcribe}


async def _read(request: Request, kind: type[_Body]) -> _Body:
    body = await bodies.read(request)
    return await bodies.aside(len(body), partial(requests.parse, body, kind))


async def _write(request: Request, models: Models, asked: ChatRequest | CompletionRequest, form: Form) -> Response:
    """The model's text; a stream begins with its first token, so that an error before it has its own status."""
    items = requests.answers(asked.item(), asked.n or 1)
    pieces = _pieces(request, models, asked, items)
    written = Written(model=asked.model, form=form, with_usage=asked.wants_usage, counts_each=asked.counts_each)
    if asked.stream:
        return Events(written.events(await anext(pieces), pieces))
    deltas: list[list[TokenDelta]] = [[] for _ in items]
    async for index, delta in pieces:
        deltas[index].append(delta)
    return responses.json(written.whole(deltas))


async def _pieces(
    request: Request, models: Models, asked: ChatRequest | CompletionRequest, items: Sequence[Prompt | Chat]
) -> AsyncGenerator[Piece]:
    """Yield the answers one after the other; between two of them the model answers other requests."""
    for index, item in enumerate(items):
        generate = partial(_generate, item, asked.format_field)
        info = RequestInfo(client=request.client)
        async with aclosing(models.stream(asked.model, generate, info)) as deltas:
            async for delta in deltas:
                yield index, delta


def _generate(
    asked: Prompt | Chat, format_field: str, model: Model, emit: Callable[[TokenDelta], None]
) -> Generator[Conversation]:
    """Generate in the model's thread."""
    try:
        yield from model.write(asked, emit)
    except FormatError as error:
        field = "tools" if isinstance(error, ToolError) else format_field
        raise FieldError(field, error.message, error.hint) from error


def _embeddable(texts: Sequence[Text], model: Model) -> Sequence[Text]:
    manifest = model.manifest
    one_vector = isinstance(manifest.postprocess, Embedding) and manifest.postprocess.pooling != "none"
    if not (one_vector and isinstance(manifest.preprocess, TextInput)):
        raise FieldError("model", f"the model {manifest.name!r} makes no embeddings of texts", "name one that does")
    return texts


def _embedded(asked: EmbeddingsRequest, answers: Sequence[Answer]) -> bytes:
    made = [cast("EmbeddingAnswer", answer) for answer in answers]
    for index, answer in enumerate(made):
        if cut := answer.get("truncated"):
            raise UsageError(
                "prompt-too-long",
                f"the model reads {cut['read']} tokens at most; input {index} has {cut.get('tokens')}",
                "send a shorter text; /v1/models/NAME/predict embeds its beginning and says so",
            )
    as_text = asked.encoding_format == "base64"
    given = [_base64(answer["embedding"]) if as_text else answer["embedding"] for answer in made]
    data: list[schemas.EmbeddingOf] = [
        {"object": "embedding", "index": index, "embedding": it} for index, it in enumerate(given)
    ]
    tokens = sum(answer.get("tokens", 0) for answer in made)
    usage: schemas.Usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    whole: schemas.Embeddings = {"object": "list", "data": data, "model": asked.model, "usage": usage}
    return msgspec.json.encode(whole)


def _base64(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype=_FLOAT).tobytes()).decode()
