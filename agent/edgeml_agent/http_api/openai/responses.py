"""OpenAI's Responses API for texts: requests parsed into chats, and answers whole or as server-sent events.

Nothing is stored: each request brings the whole conversation.

Source: https://platform.openai.com/docs/api-reference/responses, and what openai-python 3.54 and @ai-sdk/openai 3.0
send and read.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from edgeml_agent.http_api import errors
from edgeml_agent.http_api.openai import errors as openai_errors
from edgeml_agent.http_api.openai import requests
from edgeml_agent.http_api.openai.errors import FieldError
from edgeml_agent.http_api.openai.requests import UNBOUNDED_TOKENS, TokenCount, continued
from edgeml_core.errors import EdgemlError
from edgeml_runtime.generate.options import (
    Constraint,
    Fraction,
    NamedSchema,
    ObjectFormat,
    PlainFormat,
    RegexFormat,
    Temperature,
    TopLogprobs,
    WrittenToken,
    schema_constraint,
)
from edgeml_runtime.requests import MESSAGES_MAX
from edgeml_runtime.tasks import Chat, Message, TextAnswer, TokenDelta

Status = Literal["in_progress", "completed", "incomplete"]

#: Unsupported fields, with the values that change nothing.
_UNSUPPORTED: Final[Mapping[str, tuple[object, ...]]] = {
    "background": (False,),
    "conversation": (),
    "previous_response_id": (),
    "prompt": (),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "truncation": ("disabled",),
}
#: The value of `include` that requests log probabilities.
_LOGPROBS: Final = "message.output_text.logprobs"
_TEXTS: Final = ("input_text", "output_text", "text")


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class _Item(msgspec.Struct, frozen=True):
    type: str = "message"
    role: str = ""
    content: str | tuple[_Part, ...] = ""

    def message(self) -> Message:
        if self.type == "item_reference":
            hint = "send the whole conversation; where a client sends references, tell it not to store: store = false"
            raise FieldError("input", "no response is stored here that an item could refer to", hint)
        if self.type != "message":
            raise FieldError("input", f"an item is a {self.type}", "send messages only")
        if isinstance(self.content, str):
            return requests.message(self.role, self.content)
        if others := sorted({part.type for part in self.content} - set(_TEXTS)):
            raise FieldError("input", f"a message holds {', '.join(others)}", "send texts only")
        return requests.message(self.role, "".join(part.text for part in self.content))


class _SchemaFormat(NamedSchema, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that a schema allows; a chat has the same fields in an object of their own."""

    def constraint(self) -> Constraint:
        return schema_constraint(self.schema)


class _Text(msgspec.Struct, frozen=True):
    format: PlainFormat | ObjectFormat | _SchemaFormat | RegexFormat | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A body of `/v1/responses`."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = _UNSUPPORTED
    #: The field that has the form of the answer.
    format_field: ClassVar[str] = "text"

    model: str
    input: str | Annotated[tuple[_Item, ...], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    include: tuple[str, ...] | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    text: _Text | None = None
    top_logprobs: TopLogprobs | None = None
    top_p: Fraction | None = None

    def item(self) -> Chat:
        """Return the conversation.

        Raises:
            FieldError: an item is no message of text, or the form of the answer is too long.
        """
        before = () if self.instructions is None else (Message("system", self.instructions),)
        given = (Message("user", self.input),) if isinstance(self.input, str) else [it.message() for it in self.input]
        tokens = self.max_output_tokens or UNBOUNDED_TOKENS
        reported = self.top_logprobs or (0 if _LOGPROBS in (self.include or ()) else None)
        return Chat(
            messages=(*before, *given),
            logprobs=reported,
            constraint=requests.constraint(self.text.format if self.text else None, self.format_field),
            **continued(tokens, self.temperature, self.top_p),
        )


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer to one request, in all its parts."""

    request: ResponsesRequest
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created_at: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: TextAnswer) -> dict[str, object]:
        """Return the answer as one object."""
        made = _part(answer["text"], answer.get("logprobs", ()))
        return self._response(_status(answer["finish"]), made, (answer["prompt_tokens"], answer["tokens"]))

    async def events(self, first: TokenDelta, pieces: AsyncGenerator[TokenDelta]) -> AsyncGenerator[bytes]:
        """Yield the answer as it is written, as events with numbers; an error is the last one."""
        numbered = _Numbered()
        place: dict[str, object] = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        for kind in ("created", "in_progress"):
            yield numbered.event(f"response.{kind}", response=self._response("in_progress"))
        yield numbered.event("response.output_item.added", output_index=0, item=self._item("in_progress", None))
        yield numbered.event("response.content_part.added", **place, part=_part(""))
        last, text = first, ""
        tokens = list[WrittenToken]()
        async with aclosing(pieces):
            try:
                async for last in _all(first, pieces):
                    new = [last.logprob] if last.logprob else []
                    text, tokens = text + last.text, tokens + new
                    if last.text or new:
                        kind = "response.output_text.delta"
                        yield numbered.event(kind, **place, delta=last.text, logprobs=_logprobs(new))
            except EdgemlError as error:
                told = openai_errors.body(error, errors.status_of(error))["error"]
                yield numbered.event("error", code=told["code"], message=told["message"], param=told["param"])
                return
        status, made = _status(last.finish), _part(text, tokens)
        yield numbered.event("response.output_text.done", **place, text=text, logprobs=_logprobs(tokens))
        yield numbered.event("response.content_part.done", **place, part=made)
        yield numbered.event("response.output_item.done", output_index=0, item=self._item(status, made))
        response = self._response(status, made, (last.prompt_tokens, last.tokens))
        yield numbered.event(f"response.{status}", response=response)

    @property
    def _item_id(self) -> str:
        return f"msg_{self.id}"

    def _item(self, status: Status, part: dict[str, object] | None) -> dict[str, object]:
        content = [] if part is None else [part]
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _response(
        self, status: Status, part: dict[str, object] | None = None, tokens: tuple[int, int] | None = None
    ) -> dict[str, object]:
        asked = self.request
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": {},
            "model": asked.model,
            "output": [] if part is None else [self._item(status, part)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": requests.TEMPERATURE_USUAL if asked.temperature is None else asked.temperature,
            "text": {"format": (asked.text and asked.text.format) or PlainFormat()},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": None if tokens is None else _usage(*tokens),
        }


class _Numbered:
    """Writes events with their numbers."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, kind: str, **content: object) -> bytes:
        body = {"type": kind, "sequence_number": self._next, **content}
        self._next += 1
        return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(body) + b"\n\n"


def _status(finish: str | None) -> Status:
    return "completed" if finish == "stop" else "incomplete"


def _part(text: str, tokens: Sequence[WrittenToken] = ()) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(tokens)}


def _logprobs(tokens: Sequence[WrittenToken]) -> list[dict[str, object]]:
    """Return tokens in the form of this API, in which unknown bytes are none."""
    return [
        {
            **it,
            "bytes": it["bytes"] or [],
            "top_logprobs": [{**one, "bytes": one["bytes"] or []} for one in it["top_logprobs"]],
        }
        for it in tokens
    ]


async def _all(first: TokenDelta, others: AsyncGenerator[TokenDelta]) -> AsyncGenerator[TokenDelta]:
    yield first
    async for delta in others:
        yield delta


def _usage(prompt_tokens: int, tokens: int) -> dict[str, object]:
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + tokens,
    }
