"""Tools of OpenAI's clients: parsed out of requests, and calls in the form of their answers.

Source: https://platform.openai.com/docs/api-reference/chat/create, and what openai-python 3.54 sends and reads.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from edgeml_agent.http_api import schemas
from edgeml_agent.http_api.openai.errors import FieldError
from edgeml_core import decoding
from edgeml_runtime.generate.options import CallDelta, ToolCall, Tools
from edgeml_runtime.generate.tools import ID_CHARS
from edgeml_runtime.tasks import CallingMessage, ResultMessage, TokenDelta

#: Tools of one request, and calls of one message; the first is OpenAI's bound.
TOOLS_MAX: Final = 128
CALLS_MAX: Final = 128
_LETTERS: Final = string.ascii_letters + string.digits
#: Fields of a function that stand in the prompt where they have a value; `strict` is for the server alone.
_OPTIONAL: Final = ("description", "parameters")
_FIELDS: Final = ("name", *_OPTIONAL, "strict")

_Name = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
Given = Annotated[tuple[dict[str, Any], ...], msgspec.Meta(max_length=TOOLS_MAX)]


class _Function(msgspec.Struct, frozen=True):
    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    function: _Function


class _Named(msgspec.Struct, frozen=True):
    name: str


class NamedChoice(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """The function that the answer must call."""

    function: _Named


class FlatNamedChoice(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """The same in the Responses API."""

    name: str


Choice = Literal["none", "auto", "required"] | NamedChoice
FlatChoice = Literal["none", "auto", "required"] | FlatNamedChoice


class CalledFunction(msgspec.Struct, frozen=True):
    """The function of a call, and the text of its arguments."""

    name: str
    arguments: str


class CallOf(msgspec.Struct, frozen=True):
    """A call in a message of the conversation."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


Calls = Annotated[tuple[CallOf, ...], msgspec.Meta(max_length=CALLS_MAX)]


def tools(given: Sequence[dict[str, Any]] | None, choice: Choice | None, *, several: bool | None) -> Tools | None:
    """Return the tools of a request; None without any.

    Raises:
        FieldError: a tool is malformed, or the choice has no tool.
    """
    read = [_read(it) for it in given or ()]
    names = [it.function.name for it in read]
    if twice := sorted({it for it in names if names.count(it) > 1}):
        raise FieldError("tools", f"two functions have the name {twice[0]!r}", "send different names")
    wanted = choice.function.name if isinstance(choice, NamedChoice) else None
    if wanted is not None and wanted not in names:
        raise FieldError("tool_choice", f"no tool has the name {wanted!r}", "name a function of the tools")
    if not read:
        if choice == "required":
            raise FieldError("tool_choice", "a call is required, but there are no tools", "send tools")
        return None
    mode: Literal["none", "auto", "required"]
    mode = "required" if isinstance(choice, NamedChoice) else choice or "auto"
    return Tools(
        given=tuple(_shown(it) for it in given or ()),
        callable=(wanted,) if wanted else tuple(names),
        choice=mode,
        several=several is not False and mode == "auto",
        strict=any(it.function.strict for it in read),
    )


def _read(tool: dict[str, Any]) -> _Tool:
    try:
        return decoding.convert(tool, _Tool)
    except msgspec.ValidationError as error:
        hint = "send functions with a name, and parameters as a JSON schema"
        raise FieldError("tools", f"a tool can't be read: {error}", hint) from error


def nested(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool of the Responses API, which has a function's fields beside its type, in the form of a chat's."""
    function = {key: tool[key] for key in tool if key in _FIELDS}
    return {"type": tool.get("type"), "function": function}


def nested_choice(choice: FlatChoice) -> Choice:
    """Return a choice of the Responses API in the form of a chat's."""
    return choice if isinstance(choice, str) else NamedChoice(_Named(choice.name))


def _shown(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool as the prompt has it: without `strict`, and without absent fields."""
    function = {
        key: value
        for key, value in tool["function"].items()
        if key != "strict" and not (key in _OPTIONAL and value is None)
    }
    return {**tool, "function": function}


def calling(content: str, calls: Sequence[CallOf], *, field: str = "messages") -> CallingMessage:
    """Return the assistant's message with calls.

    Raises:
        FieldError: in `field` the arguments of a call are no JSON object.
    """
    read = tuple(ToolCall(it.id, it.function.name, _arguments(it.function, field)) for it in calls)
    return CallingMessage("assistant", content, calls=read)


def result(content: str, call_id: str | None) -> ResultMessage:
    """Return the message with a call's result.

    Raises:
        FieldError: it names no call.
    """
    if call_id is None:
        raise FieldError("messages", "a tool's message has no tool_call_id", "send the id of its call")
    return ResultMessage("tool", content, call_id=call_id)


def _arguments(function: CalledFunction, field: str) -> dict[str, Any]:
    try:
        return decoding.from_json(function.arguments or "{}", dict[str, Any])
    except (ValueError, RecursionError) as error:
        message = f"the arguments of a call of {function.name[:64]!r} are no JSON object: {error}"
        raise FieldError(field, message, "send the text of a JSON object") from error


def call_id() -> str:
    """Make the id of a call, in the one form that every chat template takes."""
    return "".join(secrets.choice(_LETTERS) for _ in range(ID_CHARS))


def calls_of(deltas: Iterable[TokenDelta]) -> list[schemas.ToolCallOf]:
    """Join the parts of an answer's calls."""
    found = list[schemas.ToolCallOf]()
    for part in (call for delta in deltas for call in delta.calls):
        if part.name is not None:
            found.append({"id": call_id(), "type": "function", "function": {"name": part.name, "arguments": ""}})
        found[part.index]["function"]["arguments"] += part.arguments
    return found


def delta(calls: Sequence[CallDelta]) -> dict[str, object]:
    """Return the content of a stream's choice with parts of calls."""
    return {"delta": {"tool_calls": [_part(it) for it in calls]}}


def _part(part: CallDelta) -> dict[str, object]:
    if part.name is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": call_id(), "type": "function", "function": function}
