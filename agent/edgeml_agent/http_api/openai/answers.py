"""Answers in OpenAI's form: whole, or as server-sent events while they are written."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Final, TypeAlias

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from edgeml_agent.http_api import errors, schemas
from edgeml_agent.http_api.openai import tools
from edgeml_core.errors import EdgemlError
from edgeml_runtime.generate.options import WrittenToken
from edgeml_runtime.tasks import Finish, TokenDelta, join

_DONE: Final = b"data: [DONE]\n\n"
#: A piece of one of several answers, and the number of that answer.
Piece: TypeAlias = tuple[int, TokenDelta]


@dataclass(frozen=True, kw_only=True)
class Form:
    """The differences between a chat and a completion.

    Attributes:
        text: puts a whole text in a choice, with the calls of tools.
        delta: puts a piece of it in one.
        logprobs: gives tokens their form; the second argument is the number of characters before them.
        opening: the content of a stream's first choice, before any text.
    """

    prefix: str
    whole: str
    piece: str
    text: Callable[[str, Sequence[schemas.ToolCallOf]], dict[str, object]]
    delta: Callable[[str], dict[str, object]]
    logprobs: Callable[[Sequence[WrittenToken], int], schemas.ChatLogprobs | schemas.CompletionLogprobs]
    opening: Mapping[str, object] | None = None


def _chat_logprobs(tokens: Sequence[WrittenToken], _chars: int) -> schemas.ChatLogprobs:
    return {"content": list(tokens), "refusal": None}


def _completion_logprobs(tokens: Sequence[WrittenToken], chars: int) -> schemas.CompletionLogprobs:
    offsets = list(accumulate(map(_chars, tokens), initial=chars))[:-1]
    return {
        "tokens": [it["token"] for it in tokens],
        "token_logprobs": [it["logprob"] for it in tokens],
        # The token itself is always among them.
        "top_logprobs": [{one["token"]: one["logprob"] for one in (*it["top_logprobs"], it)} for it in tokens],
        "text_offset": offsets,
    }


def _chars(token: WrittenToken) -> int:
    """Count the characters that begin in a token; only bytes within a character are 0b10......."""
    data = token["bytes"]
    return len(token["token"]) if data is None else sum(byte & 0b1100_0000 != 0b1000_0000 for byte in data)


def _message(text: str, calls: Sequence[schemas.ToolCallOf]) -> schemas.AssistantMessage:
    if not calls:
        return {"role": "assistant", "content": text, "refusal": None}
    return {"role": "assistant", "content": text or None, "refusal": None, "tool_calls": list(calls)}


CHAT: Final = Form(
    prefix="chatcmpl-",
    whole="chat.completion",
    piece="chat.completion.chunk",
    text=lambda text, calls: {"message": _message(text, calls)},
    delta=lambda text: {"delta": {"content": text} if text else {}},
    logprobs=_chat_logprobs,
    opening={"delta": {"role": "assistant", "content": ""}},
)
COMPLETION: Final = Form(
    prefix="cmpl-",
    whole="text_completion",
    piece="text_completion",
    text=lambda text, _: {"text": text},
    delta=lambda text: {"text": text},
    logprobs=_completion_logprobs,
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """The answers to one request, in all their parts.

    Attributes:
        with_usage: whether a stream ends with the token counts.
        counts_each: whether each of its events has the counts until then, too.
    """

    model: str
    form: Form
    with_usage: bool = False
    counts_each: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, deltas: Sequence[Sequence[TokenDelta]]) -> dict[str, object]:
        """Return the answers as one object."""
        answers = [join(it) for it in deltas]
        choices = [
            self._choice(
                index,
                self.form.text(it["text"], calls),
                _finish(it["finish"], called=bool(calls)),
                self._logprobs(it.get("logprobs", ())),
            )
            for index, (it, calls) in enumerate(zip(answers, map(tools.calls_of, deltas), strict=True))
        ]
        usage = _usage(answers[0]["prompt_tokens"], sum(it["tokens"] for it in answers))
        return {**self._head(self.form.whole), "choices": choices, "usage": usage}

    async def events(self, first: Piece, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[bytes]:
        """Yield the answers as they are written, one event for each piece; an error is the last one."""
        begun, chars, tokens, called = -1, 0, 0, False
        count = partial(_usage, first[1].prompt_tokens)
        async with aclosing(pieces):
            try:
                async for index, delta in _all(first, pieces):
                    if index > begun:
                        begun, chars, called = index, 0, False
                        if self.form.opening:
                            yield self._event(count(tokens), index, self.form.opening)
                    logprobs = () if delta.logprob is None else (delta.logprob,)
                    so_far = count(tokens + delta.tokens)
                    if delta.text or logprobs:
                        content = self.form.delta(delta.text)
                        yield self._event(so_far, index, content, None, self._logprobs(logprobs, chars))
                    chars += sum(map(_chars, logprobs))
                    if delta.calls:
                        called = True
                        yield self._event(so_far, index, tools.delta(delta.calls))
                    if delta.finish:
                        tokens += delta.tokens
                        finish = _finish(delta.finish, called=called)
                        yield self._event(so_far, index, self.form.delta(""), finish)
            except EdgemlError as error:
                yield _event(errors.OPENAI.body(error, errors.status_of(error)))
                return
        if self.with_usage:
            yield _event({**self._head(self.form.piece), "choices": [], "usage": count(tokens)})
        yield _DONE

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.form.prefix + self.id, "object": kind, "created": self.created, "model": self.model}

    def _logprobs(self, tokens: Sequence[WrittenToken], chars: int = 0) -> object:
        return self.form.logprobs(tokens, chars) if tokens else None

    def _choice(
        self, index: int, content: Mapping[str, object], finish: str | None, logprobs: object
    ) -> dict[str, object]:
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}

    def _event(
        self,
        so_far: schemas.Usage,
        index: int,
        content: Mapping[str, object],
        finish: str | None = None,
        logprobs: object = None,
    ) -> bytes:
        usage = {"usage": so_far if self.counts_each else None} if self.with_usage else {}
        choice = self._choice(index, content, finish, logprobs)
        return _event({**self._head(self.form.piece), "choices": [choice], **usage})


def _finish(finish: Finish, *, called: bool) -> str:
    return "tool_calls" if called and finish == "stop" else finish


class Events(StreamingResponse):
    """A response that closes its source when it ends, or when the connection cancels it: its client has left."""

    def __init__(self, source: AsyncGenerator[bytes]) -> None:
        super().__init__(source, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._source = source

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the events."""
        async with aclosing(self._source):
            await self.stream_response(send)


async def _all(first: Piece, others: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    yield first
    async for piece in others:
        yield piece


def _usage(prompt_tokens: int, tokens: int) -> schemas.Usage:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
