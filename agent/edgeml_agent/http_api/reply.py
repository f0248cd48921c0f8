"""The chat API: `POST /chat`, one message of a user in, the model's reply out. A conversation is in the request alone.

Options, bounds and errors are those of the task API, which the runtime has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Final, cast

import msgspec
from starlette.responses import Response

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import json_body, predict, responses, schemas
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.serve.calls import Predict, RequestInfo
from edgeml_agent.serve.models import Models
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.processing import PromptInput
from edgeml_runtime import requests
from edgeml_runtime.generate.options import NewTokens
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Chat, Message, TextAnswer

#: Tokens of a reply, by default: two or three paragraphs, half a minute on a small board.
TOKENS_USUAL: Final = 256
_USER: Final = "user"
_EXAMPLE: Final = 'send {"text": "..."}'


class ReplyRequest(requests.Continued, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A user's message, and the messages before it. `model` may be left out where one model chats."""

    text: str
    model: str | None = None
    history: Annotated[tuple[Message, ...], msgspec.Meta(max_length=requests.MESSAGES_MAX - 1)] = ()
    max_new_tokens: NewTokens = TOKENS_USUAL

    def item(self) -> Chat:
        """Return the conversation."""
        options = self.options()
        for field in ("text", "model", "history"):
            del options[field]
        return Chat(messages=(*self.history, Message(_USER, self.text)), **options)


def endpoints(models: Models) -> dict[str, Endpoint]:
    """The endpoint of this API."""

    async def reply(request: Request) -> Response:
        if request.content_type not in predict.JSON_TYPES:
            message = f"a body of type {request.content_type!r} is not read"
            raise UsageError("content-unsupported", message, "send JSON")
        body = await bodies.read(request)
        asked = await bodies.aside(len(body), partial(_read, body))
        name = _only(models) if asked.model is None else asked.model
        call = Predict(parse=partial(_items, asked), write=_written)
        return responses.json_bytes(await models.run(name, call, RequestInfo(client=request.client)))

    return {"reply": reply}


def _read(body: bytes) -> ReplyRequest:
    try:
        return json_body.decode(body, ReplyRequest)
    except ValueError as error:
        raise UsageError("input-invalid", f"the request can't be read: {error}", _EXAMPLE) from error


def _only(models: Models) -> str:
    """Return the name of the one model that chats.

    Raises:
        UsageError: `model-unknown`, when there is none; `input-invalid`, when there are several.
    """
    served = models.active().items()
    names = sorted(name for name, it in served if _chats(it.manifest) and not it.unloaded)
    if not names:
        hint = "deploy a language model with a chat template; GET /v1/models lists the models"
        raise UsageError("model-unknown", "no model that chats is served here", hint)
    if len(names) > 1:
        message = f"{len(names)} models chat here: {', '.join(names)}"
        raise UsageError("input-invalid", message, f'name one: {{"text": "...", "model": "{names[0]}"}}')
    return names[0]


def _chats(manifest: Manifest) -> bool:
    return isinstance(manifest.preprocess, PromptInput) and manifest.preprocess.chat is not None


def _items(asked: ReplyRequest, model: Model) -> Sequence[Chat]:
    if not _chats(model.manifest):
        message = f"the model {model.manifest.name!r} doesn't chat"
        raise UsageError("input-invalid", message, f"POST /v1/models/{model.manifest.name}/predict takes its requests")
    item = asked.item()
    requests.collect([item])
    return [item]


def _written(_: Model, answers: Sequence[Answer]) -> bytes:
    answer = cast("TextAnswer", answers[0])
    written: schemas.Reply = {"reply": answer["text"]}
    if answer["finish"] == "length":
        written["finish"] = "length"
    if "logprobs" in answer:
        written["logprobs"] = answer["logprobs"]
    return msgspec.json.encode(written)
