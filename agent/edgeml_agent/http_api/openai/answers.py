"""Answers in OpenAI's form: whole, or as server-sent events while they are written."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from edgeml_agent.http_api import errors, schemas
from edgeml_core.errors import EdgemlError
from edgeml_runtime.tasks import TextAnswer, TokenDelta

_DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class Form:
    """The differences between a chat and a completion.

    Attributes:
        text: puts a whole text in a choice.
        delta: puts a piece of it in one.
        opening: the content of a stream's first choice, before any text.
    """

    prefix: str
    whole: str
    piece: str
    text: Callable[[str], dict[str, object]]
    delta: Callable[[str], dict[str, object]]
    opening: Mapping[str, object] | None = None


CHAT: Final = Form(
    prefix="chatcmpl-",
    whole="chat.completion",
    piece="chat.completion.chunk",
    text=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    delta=lambda text: {"delta": {"content": text} if text else {}},
    opening={"delta": {"role": "assistant", "content": ""}},
)
COMPLETION: Final = Form(
    prefix="cmpl-",
    whole="text_completion",
    piece="text_completion",
    text=lambda text: {"text": text},
    delta=lambda text: {"text": text},
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """One answer to one request, in all its parts.

    Attributes:
        with_usage: whether a stream ends with the token counts.
    """

    model: str
    form: Form
    with_usage: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: TextAnswer) -> dict[str, object]:
        """Return the answer as one object."""
        choice = self._choice(self.form.text(answer["text"]), answer["finish"])
        usage = _usage(answer["prompt_tokens"], answer["tokens"])
        return {**self._head(self.form.whole), "choices": [choice], "usage": usage}

    async def events(self, first: TokenDelta, pieces: AsyncGenerator[TokenDelta]) -> AsyncGenerator[bytes]:
        """Yield the answer as it is written, one event for each piece; an error is the last one."""
        if self.form.opening:
            yield self._event(self.form.opening)
        last = first
        async with aclosing(pieces):
            try:
                async for last in _all(first, pieces):
                    if last.text:
                        yield self._event(self.form.delta(last.text))
            except EdgemlError as error:
                yield _event(errors.OPENAI.body(error, errors.status_of(error)))
                return
        yield self._event(self.form.delta(""), last.finish)
        if self.with_usage:
            usage = _usage(last.prompt_tokens, last.tokens)
            yield _event({**self._head(self.form.piece), "choices": [], "usage": usage})
        yield _DONE

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.form.prefix + self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, content: Mapping[str, object], finish: str | None) -> dict[str, object]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish}

    def _event(self, content: Mapping[str, object], finish: str | None = None) -> bytes:
        usage = {"usage": None} if self.with_usage else {}
        return _event({**self._head(self.form.piece), "choices": [self._choice(content, finish)], **usage})


class Events(StreamingResponse):
    """A response that closes its source when it ends, or when the connection cancels it: its client has left."""

    def __init__(self, source: AsyncGenerator[bytes]) -> None:
        super().__init__(source, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._source = source

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the events."""
        async with aclosing(self._source):
            await self.stream_response(send)


async def _all(first: TokenDelta, others: AsyncGenerator[TokenDelta]) -> AsyncGenerator[TokenDelta]:
    yield first
    async for piece in others:
        yield piece


def _usage(prompt_tokens: int, tokens: int) -> schemas.Usage:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
