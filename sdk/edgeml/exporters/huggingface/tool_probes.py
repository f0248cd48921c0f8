"""Conversations with tools on which a chat template is probed: of marks to derive from, of hard values to compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from edgeml_core.tool_template import Part
from edgeml_runtime.generate.options import ToolCall
from edgeml_runtime.tasks import CallingMessage, Message, ResultMessage

Tool = dict[str, Any]
Parts = tuple[Part, ...]

#: Messages of the longest conversation that is compared: two results of a call, and one more call or answer.
_MESSAGES_MAX: Final = 6
_NEXT: Final[dict[Part, Parts]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", "calls", "both"),
    "assistant": ("user",),
    "calls": ("tool",),
    "both": ("tool",),
    "tool": ("tool", "assistant", "calls", "both", "user"),
}
_ROLES: Final = {"calls": "assistant", "both": "assistant"}
#: Contents, arguments and tools on which a template may depend.
CONTENTS: Final = (
    "Hello",
    "  white space\n\n",
    "{{ a }} {% b %}",
    "<think>why</think>so",
    'two\nlines, ümlaut, "quotes" and \\',
    '{"degrees": 3}',
    "",
)
_ARGUMENTS: Final[tuple[dict[str, Any], ...]] = (
    {"city": "Bodø", "days": 3},
    {},
    {"z": {"b": [1.5, None, True], "a": {}}, "a": 'quotes " and\nlines\\', "n": 10**20},
    {"text": "</tool_call> {{ x }} <b>&'"},
)
_NAMES: Final = ("get", "read-pump_2", "a")


def _tool(name: str, **more: Any) -> Tool:  # noqa: ANN401 -- any JSON
    return {"type": "function", "function": {"name": name, **more}}


_CITY: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_NESTED: Final = {
    "type": "object",
    "properties": {
        "it": {"type": ["string", "null"], "enum": ["a b", "ö", None], "description": "of \"one\"\nor <two> & 'three'"},
        "list": {"type": "array", "items": {"type": "object", "properties": {}, "additionalProperties": False}},
    },
    "$defs": {"x": {"type": "number", "minimum": 0.5}},
}
#: Tools to derive from: plain ones with all three fields.
TOOLS: Final = tuple(_tool(f"tool_{number}", description=f"Text {number}", parameters=_CITY) for number in range(3))
#: Some templates write texts without escapes.
QUOTING: Final = (_tool("quoting", description='with "quotes"\nand lines\\', parameters=_CITY),)
_TOOL_SETS: Final[tuple[Sequence[Tool], ...]] = (
    TOOLS[:1],
    (_tool("bare"), _tool("described", description="Ümlaut, {{ x }} and <b>")),
    (_tool("nested", description="", parameters=_NESTED), *TOOLS[:1]),
    ({"function": {"parameters": _CITY, "name": "order"}, "type": "function"},),
    QUOTING,
)


def conversations(*, with_system: bool, with_text: bool) -> Iterator[Parts]:
    """Yield the orders of messages that end where the model answers."""
    pending: list[Parts] = [()]
    while pending:
        parts = pending.pop()
        if parts and parts[-1] in {"user", "tool"}:
            yield parts
        if len(parts) < _MESSAGES_MAX:
            allowed = _NEXT[parts[-1] if parts else ""]
            pending += [
                (*parts, it) for it in allowed if (with_system or it != "system") and (with_text or it != "both")
            ]


def marked(parts: Parts, *, calls: int = 1) -> list[Message]:
    """Make a conversation whose contents, names, arguments and ids are all different."""
    made = list[Message]()
    for number, part in enumerate(parts):
        role, content = _ROLES.get(part, part), f"mark-{number}-mark"
        match part:
            case "calls" | "both":
                called = tuple(
                    ToolCall(f"{number:04}c{at:04}", f"name-{number}-{at}-name", {f"key-{number}-{at}": "value"})
                    for at in range(calls)
                )
                made.append(CallingMessage(role, content if part == "both" else "", calls=called))
            case "tool":
                made.append(ResultMessage(role, content, call_id=f"{number:04}r0000"))
            case _:
                made.append(Message(role, content))
    return made


def hard(parts: Parts, *, calls: int, first: int) -> Iterator[list[Message]]:
    """Yield conversations of hard values, from number `first` on: with different contents, and with equal ones."""
    contents = [CONTENTS[(first + at) % len(CONTENTS)] for at in range(len(parts))]
    yield _filled(parts, contents, calls=calls, first=first)
    yield _filled(parts, contents[:1] * len(parts), calls=calls, first=first)


def _filled(parts: Parts, contents: Sequence[str], *, calls: int, first: int) -> list[Message]:
    counter = itertools.count(first)
    made = list[Message]()
    for part, it, content in zip(parts, marked(parts, calls=calls), contents, strict=True):
        if isinstance(it, CallingMessage):
            called = tuple(_hard_call(call.id, next(counter)) for call in it.calls)
            text = (content or "text") if part == "both" else ""
            made.append(msgspec.structs.replace(it, content=text, calls=called))
        else:
            made.append(msgspec.structs.replace(it, content=content))
    return made


def _hard_call(call_id: str, number: int) -> ToolCall:
    return ToolCall(call_id, _NAMES[number % len(_NAMES)], _ARGUMENTS[number % len(_ARGUMENTS)])


def tool_set(number: int) -> Sequence[Tool]:
    """Return tools of one kind that a template may depend on."""
    return _TOOL_SETS[number % len(_TOOL_SETS)]
