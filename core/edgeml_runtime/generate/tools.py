"""Conversations with tools joined to a prompt by the data in a manifest, as `chat` does for those without."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from edgeml_core.errors import UsageError
from edgeml_core.tool_template import JsonForm, Part, ToolForm, ToolTemplate
from edgeml_runtime.generate.options import ToolCall
from edgeml_runtime.tasks import CallingMessage, Message, ResultMessage

#: Letters and digits of a call's id where the template writes it. Source: Mistral's templates take no others.
ID_CHARS: Final = 9
_ID: Final = re.compile(f"[A-Za-z0-9]{{{ID_CHARS}}}")
_ROLES: Final[dict[str, Part]] = {"system": "system", "user": "user", "assistant": "assistant"}


def render(messages: Sequence[Message], tools: Sequence[dict[str, Any]], template: ToolTemplate) -> str:
    """Join messages and tools to the prompt of the model's next message.

    Args:
        tools: as clients of OpenAI's API send them.

    Raises:
        UsageError: `input-invalid`, when the template has no such order of messages, or not as many calls in one.
    """
    parts = [_part(it, messages, template) for it in messages]
    written = template.tool.between.join(tool_text(it, template.tool) for it in tools)
    frames = [written.join(_frame(pair, template)) for pair in pairwise(["", *parts, ""])]
    bodies = [_body(it, part, template) for it, part in zip(messages, parts, strict=True)]
    return "".join(frame + body for frame, body in zip(frames, [*bodies, ""], strict=True))


def json_text(value: object, form: JsonForm) -> str:
    """Write JSON in a template's form."""
    return json.dumps(value, ensure_ascii=False, indent=form.indent, separators=form.separators)


def tool_text(tool: dict[str, Any], form: ToolForm) -> str:
    """Write one tool in a template's form."""
    function = tool["function"]
    if not form.raw_texts:
        return json_text(function if form.function_alone else tool, form)
    fields = (f'"{key}": {_raw(value, form)}' for key, value in function.items())
    alone = f"{{{', '.join(fields)}}}"
    return alone if form.function_alone else f'{{"type": "function", "function": {alone}}}'


def _raw(value: object, form: JsonForm) -> str:
    return f'"{value}"' if isinstance(value, str) else json_text(value, form)


def _part(message: Message, messages: Sequence[Message], template: ToolTemplate) -> Part:
    match message:
        case CallingMessage(content=content):
            return "both" if content and template.text_to_calls is not None else "calls"
        case ResultMessage():
            return "tool"
        case Message(role="user") if "last" in template.between:
            last = next(it for it in reversed(messages) if it.role == "user")
            return "last" if message == last else "user"
        case _ if part := _ROLES.get(message.role):
            return part
    raise UsageError("input-invalid", f"a message has the role {message.role!r}", f"send {', '.join(_ROLES)} or tool")


def _frame(pair: tuple[Part, Part], template: ToolTemplate) -> tuple[str, ...]:
    before, part = pair
    found = template.between.get(before, {}).get(part)
    if found is None:
        where = f"after {_name(before)}" if before else "first"
        message = f"{_name(part)} can't come {where}" if part else f"the last message is {_name(before)}"
        if not before and not part:
            message = "there is no message"
        raise UsageError("input-invalid", f"{message} in a chat with tools", f"the model takes {_orders(template)}")
    return found


def _name(part: Part) -> str:
    names = {"calls": "calls of tools", "both": "a text with calls of tools", "tool": "a tool's result"}
    return names.get(part, f"a message of the role {'user' if part == 'last' else part!r}")


def _orders(template: ToolTemplate) -> str:
    pairs = ((before, part) for before, parts in template.between.items() for part in parts if part)
    return ", ".join(f"{part} after {before}" if before else f"{part} first" for before, part in sorted(pairs))


def _body(message: Message, part: Part, template: ToolTemplate) -> str:
    content = _content(message.content, part, template)
    match message:
        case CallingMessage(calls=calls):
            text = content + (template.text_to_calls or "") if part == "both" else ""
            return text + _calls(calls, template)
        case ResultMessage(call_id=call_id) if template.result.middle is not None:
            both = (_id(call_id), content) if template.result.id_first else (content, _id(call_id))
            return template.result.middle.join(both)
        case _:
            return content


def _content(content: str, part: Part, template: ToolTemplate) -> str:
    match template.contents.get(part):
        case "trim":
            return content.strip()
        case "json":  # the frames have its quotation marks
            return json_text(content, JsonForm())[1:-1]
        case _:
            return content


def _calls(calls: Sequence[ToolCall], template: ToolTemplate) -> str:
    form = template.call
    if not calls or (len(calls) > 1 and form.between is None):
        raise UsageError("input-invalid", f"a message has {len(calls)} calls", "send one: the model takes no others")
    texts = (
        f"{it.name}{form.middle}{json_text(it.arguments, form.arguments)}"
        + ("" if form.before_id is None else form.before_id + _id(it.id))
        for it in calls
    )
    return (form.between or "").join(texts)


def _id(call_id: str) -> str:
    if not _ID.fullmatch(call_id):
        hint = "send the id of the call in the model's answer"
        raise UsageError("input-invalid", f"the call's id {call_id[:40]!r} is not {ID_CHARS} letters and digits", hint)
    return call_id
