"""Requests of OpenAI's clients, parsed into the runtime's items.

A field that would change the answer and isn't supported is refused. Fields that change nothing here (`user`,
`metadata`, ...) are ignored.

Source: https://platform.openai.com/docs/api-reference, and what openai-python 3.54 sends.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, TypeVar

import msgspec

from edgeml_agent.http_api import json_body
from edgeml_agent.http_api.openai import tools as tool_requests
from edgeml_agent.http_api.openai.errors import FieldError
from edgeml_core import decoding
from edgeml_runtime import requests
from edgeml_runtime.generate.options import (
    Constraint,
    FormatError,
    Fraction,
    LogitBias,
    Penalty,
    Repetition,
    ResponseFormat,
    Stop,
    Stops,
    Temperature,
    Tools,
    TopLogprobs,
)
from edgeml_runtime.tasks import Chat, Message, Prompt, Text

#: Tokens of a completion, OpenAI's default; a chat goes on until the model ends it or its context is full.
PROMPT_TOKENS_USUAL: Final = 16
TEMPERATURE_USUAL: Final = 1.0
#: The model ends the text, or its context is full.
UNBOUNDED_TOKENS: Final = 2**31
#: Answers to one request, one after the other; bounds the time for which one request uses a model.
ANSWERS_MAX: Final = 8
_SEED_BITS: Final = 63
#: Unsupported fields, with the values that change nothing.
_UNSUPPORTED: Final[dict[str, tuple[object, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "dimensions": (),
    "echo": (False,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "modalities": (["text"],),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
}
_FIELD: Final = re.compile(r"`\$\.(\w+)|required field `(\w+)`")

TokenCount = Annotated[int, msgspec.Meta(ge=1)]


class Form(Protocol):
    """The form of an answer."""

    def constraint(self) -> Constraint | None:
        """Return the constraint, None for any text."""


_Request = TypeVar("_Request", bound=msgspec.Struct)
Asked = TypeVar("Asked", Prompt, Chat, Prompt | Chat)


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    # vLLM's, not OpenAI's.
    continuous_usage_stats: bool | None = None


class _Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that chats and completions share."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = _UNSUPPORTED
    usual_tokens: ClassVar[int]

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    seed: int | None = None
    stop: Stop | Stops | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=ANSWERS_MAX)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    response_format: ResponseFormat | None = None
    # Not OpenAI's, but of servers with the same API; -1 is no limit, too.
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Fraction | None = None
    repetition_penalty: Repetition | None = None

    #: The field that has the form of the answer.
    format_field: ClassVar[str] = "response_format"

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def counts_each(self) -> bool:
        """Whether each event of such a stream has the token counts until then, too."""
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def _continued(self, logprobs: int | None) -> dict[str, Any]:
        tokens = self.max_completion_tokens or self.max_tokens or self.usual_tokens
        return {
            **continued(tokens, self.temperature, self.top_p, seed=self.seed),
            "stop": (self.stop,) if isinstance(self.stop, str) else self.stop or (),
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "logit_bias": self.logit_bias or {},
            "top_k": max(0, self.top_k or 0),
            "min_p": self.min_p or 0.0,
            "repetition_penalty": 1.0 if self.repetition_penalty is None else self.repetition_penalty,
            "logprobs": logprobs,
            "constraint": constraint(self.response_format, self.format_field),
        }


class CompletionRequest(_Generation, frozen=True, kw_only=True):
    """A body of `/v1/completions`."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = _UNSUPPORTED | {"top_logprobs": (0,)}
    usual_tokens = PROMPT_TOKENS_USUAL

    prompt: str | tuple[object, ...]
    logprobs: TopLogprobs | None = None

    def item(self) -> Prompt:
        """Return the prompt.

        Raises:
            FieldError: it isn't one text.
        """
        (prompt, *more) = (self.prompt,) if isinstance(self.prompt, str) else self.prompt or ("",)
        if more or not isinstance(prompt, str):
            raise FieldError("prompt", "the prompt isn't one text", "send one text for each request, no token ids")
        return Prompt(prompt=prompt, **self._continued(self.logprobs))


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str | tuple[_Part, ...] | None = None
    tool_calls: tool_requests.Calls | None = None
    tool_call_id: str | None = None

    def message(self) -> Message:
        if self.tool_calls and self.role == "assistant":
            return tool_requests.calling(self._text("" if self.content is None else self.content), self.tool_calls)
        if self.content is None:
            raise FieldError("messages", f"a message of the role {self.role!r} has no content", "send texts only")
        text = self._text(self.content)
        return tool_requests.result(text, self.tool_call_id) if self.role == "tool" else message(self.role, text)

    def _text(self, content: str | tuple[_Part, ...]) -> str:
        if isinstance(content, str):
            return content
        if others := sorted({part.type for part in content} - {"text"}):
            raise FieldError("messages", f"a message holds {', '.join(others)}", "send texts only")
        return "".join(part.text for part in content)


class ChatRequest(_Generation, frozen=True, kw_only=True):
    """A body of `/v1/chat/completions`."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        field: harmless for field, harmless in _UNSUPPORTED.items() if field not in {"tools", "tool_choice"}
    }
    usual_tokens = UNBOUNDED_TOKENS

    messages: Annotated[tuple[_Message, ...], msgspec.Meta(min_length=1, max_length=requests.MESSAGES_MAX)]
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: tool_requests.Given | None = None
    tool_choice: tool_requests.Choice | None = None
    parallel_tool_calls: bool | None = None

    def item(self) -> Chat:
        """Return the conversation.

        Raises:
            FieldError: a message is no text, a tool is malformed, or the options don't fit each other.
        """
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs", "top_logprobs is given without logprobs", "send logprobs = true")
        reported = (self.top_logprobs or 0) if self.logprobs else None
        found = tool_requests.tools(self.tools, self.tool_choice, several=self.parallel_tool_calls)
        options = self._continued(reported)
        check_form(found, options["constraint"], self.format_field)
        return Chat(messages=tuple(it.message() for it in self.messages), tools=found, **options)


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A body of `/v1/embeddings`."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = _UNSUPPORTED

    model: str
    input: str | Annotated[tuple[object, ...], msgspec.Meta(min_length=1, max_length=requests.ITEMS_MAX)]
    encoding_format: Literal["float", "base64"] | None = None

    def items(self) -> list[Text]:
        """Return the texts.

        Raises:
            FieldError: they aren't texts.
        """
        given = (self.input,) if isinstance(self.input, str) else self.input
        texts = [text for text in given if isinstance(text, str)]
        if len(texts) < len(given):
            hint = "send texts: token ids are of another model's tokenizer; LangChain's OpenAIEmbeddings sends texts"
            hint += " with check_embedding_ctx_length=False"
            raise FieldError("input", "the input has elements that are no texts", hint)
        return [Text(text) for text in texts]


def message(role: str, content: str) -> Message:
    """Return a message of a chat; `developer` is OpenAI's newer name of the system's role."""
    return Message("system" if role == "developer" else role, content)


def continued(
    tokens: int,
    temperature: float | None,
    top_p: float | None,
    *,
    seed: int | None = None,
) -> dict[str, Any]:
    """Return the options of a generated text, with OpenAI's defaults."""
    return {
        "max_new_tokens": tokens,
        "temperature": TEMPERATURE_USUAL if temperature is None else temperature,
        "top_p": 1.0 if top_p is None else top_p,
        "seed": secrets.randbits(_SEED_BITS) if seed is None else seed % 2**_SEED_BITS,
    }


def constraint(form: Form | None, field: str) -> Constraint | None:
    """Return the constraint of a form.

    Raises:
        FieldError: the form in `field` is too long.
    """
    try:
        return None if form is None else form.constraint()
    except FormatError as error:
        raise FieldError(field, error.message, error.hint) from error


def check_form(found: Tools | None, form: Constraint | None, field: str) -> None:
    """Check that an answer has one form at most: that of `field`, or calls of tools.

    Raises:
        FieldError: it has both.
    """
    if found and found.choice != "none" and form:
        raise FieldError(field, f"{field} and tools can't be used together", f"leave {field} out, or choose no tool")


def answers(item: Asked, count: int) -> list[Asked]:
    """Return the items of several answers to one; each has the seed that follows the one before."""
    return [msgspec.structs.replace(item, seed=(item.seed + number) % 2**_SEED_BITS) for number in range(count)]


def parse(body: bytes, kind: type[_Request]) -> _Request:
    """Parse the request in a body.

    Raises:
        FieldError: it can't be read, or has a field that isn't supported.
    """
    try:
        return convert(json_body.decode(body, dict[str, Any]), kind)
    except (ValueError, RecursionError) as error:
        raise _unreadable(error) from error


def convert(values: Mapping[str, object], kind: type[_Request], *, strict: bool = True) -> _Request:
    """Convert the fields of a request.

    Args:
        values: by name.
        kind: of the request.
        strict: false for the texts of a form, which may stand for numbers.

    Raises:
        FieldError: they can't be read, or one isn't supported.
    """
    _check_supported(values, getattr(kind, "unsupported", {}))
    try:
        return decoding.convert(values, kind, str_keys=True, strict=strict)
    except ValueError as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> FieldError:
    found = _FIELD.search(str(error))
    field = None if found is None else found[1] or found[2]
    return FieldError(field, f"the request can't be read: {error}", "see OpenAI's API reference")


def _check_supported(values: Mapping[str, object], unsupported: Mapping[str, tuple[object, ...]]) -> None:
    for field, harmless in unsupported.items():
        value = values.get(field)
        # 0 is False, but not when it is a number of tokens to report on.
        asks = not any(value == it and isinstance(value, bool) is isinstance(it, bool) for it in harmless)
        if value is not None and asks:
            allowed = "".join(f" with a value other than {msgspec.json.encode(it).decode()}" for it in harmless[:1])
            raise FieldError(field, f"the field {field}{allowed} is not supported", f"leave {field} out")
