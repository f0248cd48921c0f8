"""OpenAI's Responses API: requests parsed into chats, and answers whole or as server-sent events.

Nothing is stored: each request brings the whole conversation. `response_items` has the items of both.

Source: https://platform.openai.com/docs/api-reference/responses, and what openai-python 3.54 and @ai-sdk/openai 3.0
send and read.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

import msgspec

from edgeml_agent.http_api import errors
from edgeml_agent.http_api.openai import errors as openai_errors
from edgeml_agent.http_api.openai import requests, response_items
from edgeml_agent.http_api.openai import tools as tool_requests
from edgeml_agent.http_api.openai.requests import UNBOUNDED_TOKENS, TokenCount, continued
from edgeml_agent.http_api.openai.response_items import Item, Output, Status
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
    schema_constraint,
)
from edgeml_runtime.requests import MESSAGES_MAX
from edgeml_runtime.tasks import Chat, Message, TokenDelta

#: Unsupported fields, with the values that change nothing.
_UNSUPPORTED: Final[Mapping[str, tuple[object, ...]]] = {
    "background": (False,),
    "conversation": (),
    "previous_response_id": (),
    "prompt": (),
    "truncation": ("disabled",),
}
#: The value of `include` that requests log probabilities.
_LOGPROBS: Final = "message.output_text.logprobs"


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
    input: str | Annotated[tuple[Item, ...], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    include: tuple[str, ...] | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    text: _Text | None = None
    tools: tool_requests.Given | None = None
    tool_choice: tool_requests.FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: TopLogprobs | None = None
    top_p: Fraction | None = None

    def item(self) -> Chat:
        """Return the conversation.

        Raises:
            FieldError: an item is no message, call or result of texts, a tool is malformed, or the form of the answer
                is too long.
        """
        before = () if self.instructions is None else (Message("system", self.instructions),)
        given = [Message("user", self.input)] if isinstance(self.input, str) else response_items.messages(self.input)
        tokens = self.max_output_tokens or UNBOUNDED_TOKENS
        reported = self.top_logprobs or (0 if _LOGPROBS in (self.include or ()) else None)
        form = requests.constraint(self.text.format if self.text else None, self.format_field)
        choice = None if self.tool_choice is None else tool_requests.nested_choice(self.tool_choice)
        nested = [tool_requests.nested(it) for it in self.tools or ()]
        found = tool_requests.tools(nested, choice, several=self.parallel_tool_calls)
        requests.check_form(found, form, self.format_field)
        return Chat(
            messages=(*before, *given),
            tools=found,
            logprobs=reported,
            constraint=form,
            **continued(tokens, self.temperature, self.top_p),
        )


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer to one request, in all its parts."""

    request: ResponsesRequest
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created_at: int = field(default_factory=lambda: int(time.time()))

    def whole(self, deltas: Sequence[TokenDelta]) -> dict[str, object]:
        """Return the answer as one object."""
        output = self._output()
        for delta in deltas:
            deque(output.add(delta), maxlen=0)
        status = _status(deltas[-1].finish)
        deque(output.finish(status), maxlen=0)
        return self._response(status, output.items, deltas[-1])

    async def events(self, first: TokenDelta, pieces: AsyncGenerator[TokenDelta]) -> AsyncGenerator[bytes]:
        """Yield the answer as it is written, as events with numbers; an error is the last one."""
        numbered, output, last = _Numbered(), self._output(), first
        for kind in ("created", "in_progress"):
            yield numbered.event(f"response.{kind}", {"response": self._response("in_progress")})
        async with aclosing(pieces):
            try:
                async for last in _all(first, pieces):
                    for kind, content in output.add(last):
                        yield numbered.event(f"response.{kind}", content)
            except EdgemlError as error:
                told = openai_errors.body(error, errors.status_of(error))["error"]
                yield numbered.event("error", {key: told[key] for key in ("code", "message", "param")})
                return
        status = _status(last.finish)
        for kind, content in output.finish(status):
            yield numbered.event(f"response.{kind}", content)
        yield numbered.event(f"response.{status}", {"response": self._response(status, output.items, last)})

    def _output(self) -> Output:
        return Output(self.id, may_call=bool(self.request.tools))

    def _response(
        self, status: Status, items: Sequence[dict[str, Any]] = (), last: TokenDelta | None = None
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
            "output": items,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": requests.TEMPERATURE_USUAL if asked.temperature is None else asked.temperature,
            "text": {"format": (asked.text and asked.text.format) or PlainFormat()},
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or (),
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": None if last is None else _usage(last.prompt_tokens, last.tokens),
        }


class _Numbered:
    """Writes events with their numbers."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, kind: str, content: Mapping[str, object]) -> bytes:
        body = {"type": kind, "sequence_number": self._next, **content}
        self._next += 1
        return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(body) + b"\n\n"


def _status(finish: str | None) -> Status:
    return "completed" if finish == "stop" else "incomplete"


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
