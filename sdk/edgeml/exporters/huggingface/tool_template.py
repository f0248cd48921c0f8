"""How a chat template writes tools, calls and results, as plain data: derived by rendering it, and compared with it.

`chat_template` does the same for conversations without tools.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from edgeml.exporters.huggingface import tool_probes as probes
from edgeml.exporters.huggingface.tool_probes import Parts, Tool
from edgeml_core.errors import UsageError
from edgeml_core.tool_template import CallForm, JsonForm, Part, ResultForm, ToolForm, ToolTemplate
from edgeml_runtime.generate import tools as rendering
from edgeml_runtime.tasks import CallingMessage, Message, ResultMessage

Render = Callable[[Sequence[Message], Sequence[Tool]], str | None]

#: Stands for the tools in a rendered text; no template writes it.
_TOOLS: Final = "\N{NULL}"
_JSON: Final = (JsonForm(), JsonForm(separators=(",", ":")), JsonForm(indent=2), JsonForm(indent=4))
_TOOL_FORMS: Final = tuple(
    ToolForm(indent=form.indent, separators=form.separators, function_alone=alone, raw_texts=raw)
    for alone, raw, form in itertools.product((False, True), (False, True), _JSON)
)
#: A content whose form shows.
_SPACED: Final = "  white space\n\n"
#: The beginning of JSON behind the text that announces a call.
_JSON_BEGINS: Final = re.compile(r"[\s\[]*\{")
#: Places of texts: between two parts of a conversation, and within calls and results.
_Place = tuple[str, str]
_MIDDLE: Final = ("a call's name", "its arguments")
_BEFORE_ID: Final = ("a call's arguments", "its id")
_BETWEEN: Final = ("a call", "another one")
_TO_CALLS: Final = ("a text", "its calls")
_RESULT: Final = ("a result", "its call's id")


class Inexpressible(Exception):
    """The reason for which a template can't be expressed as data."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The parts of calls and results that a template writes.

    Attributes:
        several: whether a message may have several calls.
        result_ids: whether a result names its call, behind its content or, with `id_first`, before it.
        text: whether a message's text stands beside its calls.
    """

    tool: ToolForm
    arguments: JsonForm
    call_ids: bool
    several: bool
    result_ids: bool
    id_first: bool
    text: bool


def derive(render: Render, stops: Sequence[str]) -> ToolTemplate | None:
    """Derive how a template writes tools; None when it writes none.

    Args:
        render: by the template itself; None for a conversation that it refuses.
        stops: texts of the tokens that end an answer.

    Raises:
        Inexpressible: the template can't be expressed as plain data.
    """
    asked = [Message("user", "mark")]
    text = render(asked, probes.TOOLS)
    if text is None or text == render(asked, ()):
        return None
    form = _tool_form(render)
    for with_system in (True, False):
        try:
            layout = _layout(render, form)
            every = list(_conversations(layout, with_system=with_system))
            template = _assembled(_texts(render, layout, every), layout, stops)
            return _compared(render, _with_contents(render, template, every), every)
        except Inexpressible:
            if not with_system:
                raise
    return None


def _tool_form(render: Render) -> ToolForm:
    asked = [Message("user", "mark")]
    text, quoting = (render(asked, it) or "" for it in (probes.TOOLS, probes.QUOTING))
    for form in _TOOL_FORMS:
        pieces = _split(text, [rendering.tool_text(it, form) for it in probes.TOOLS])
        if pieces is not None and rendering.tool_text(probes.QUOTING[0], form) in quoting:
            _, between, *others, _ = pieces
            if {between} != set(others):
                raise Inexpressible("its text between tools depends on their number")
            return msgspec.structs.replace(form, between=between)
    raise Inexpressible("it writes tools in no known form of JSON")


def _split(text: str, marks: Sequence[str]) -> list[str] | None:
    """Split a text at the marks, in their order; None when one is absent."""
    pieces = []
    for mark in marks:
        piece, found, text = text.partition(mark)
        if not found:
            return None
        pieces.append(piece)
    return [*pieces, text]


def _layout(render: Render, tool: ToolForm) -> _Layout:
    """Find the parts that a template writes, in a conversation with all of them."""
    messages = probes.marked(("user", "both", "tool"))
    text = render(messages, probes.TOOLS) or ""
    _, calling, result = messages
    if not isinstance(calling, CallingMessage) or not isinstance(result, ResultMessage) or result.content not in text:
        raise Inexpressible("it refuses a call of a tool and its result")
    (call,) = calling.calls
    arguments = next((it for it in _JSON if rendering.json_text(call.arguments, it) in text), None)
    if arguments is None:
        raise Inexpressible("it writes the arguments of a call in no known form of JSON")
    return _Layout(
        tool=tool,
        arguments=arguments,
        call_ids=call.id in text,
        several=render(probes.marked(("user", "calls", "tool"), calls=2), probes.TOOLS) is not None,
        result_ids=result.call_id in text,
        id_first=0 <= text.find(result.call_id) < text.find(result.content),
        text=calling.content in text,
    )


def _conversations(layout: _Layout, *, with_system: bool) -> Iterator[tuple[Parts, int]]:
    """Yield the parts of conversations, and the number of calls in each message with calls."""
    for parts in probes.conversations(with_system=with_system, with_text=layout.text):
        yield parts, 1
        if layout.several and ("calls" in parts or "both" in parts):
            yield parts, 2


def _texts(render: Render, layout: _Layout, every: Sequence[tuple[Parts, int]]) -> dict[_Place, str]:
    """Find the text at each place, in conversations of marks."""
    found = dict[_Place, str]()
    written = layout.tool.between.join(rendering.tool_text(it, layout.tool) for it in probes.TOOLS)
    for parts, calls in every:
        messages = probes.marked(parts, calls=calls)
        text = (render(messages, probes.TOOLS) or "").replace(written, _TOOLS)
        marks = list(_marks(parts, messages, layout))
        pieces = _split(text, [mark for _, mark in marks])
        places = [*(place for place, _ in marks), (_last_part(parts), "")]
        for place, piece in zip(places, pieces or (), strict=False):
            if found.setdefault(place, piece) != piece:
                raise Inexpressible(f"its text between {_names(place)} depends on more than these two")
    return found


def _names(place: _Place) -> str:
    return f"{place[0] or 'the beginning'} and {place[1] or 'the answer'}"


def _marks(parts: Parts, messages: Sequence[Message], layout: _Layout) -> Iterator[tuple[_Place, str]]:
    """Yield the marks of a conversation, each with the place before it."""
    before: Part = ""
    users = [number for number, part in enumerate(parts) if part == "user"]
    told_apart: Parts = tuple("last" if number == users[-1] else part for number, part in enumerate(parts))
    for part, message in zip(told_apart, messages, strict=True):
        place: _Place = (before, part)
        match message:
            case CallingMessage():
                yield from _call_marks(message, place, layout)
            case ResultMessage(content=content, call_id=call_id):
                first, second = (call_id, content) if layout.id_first else (content, call_id)
                yield place, first
                if layout.result_ids:
                    yield _RESULT, second
            case _:
                yield place, message.content
        before = part


def _call_marks(message: CallingMessage, place: _Place, layout: _Layout) -> Iterator[tuple[_Place, str]]:
    if message.content:
        yield place, message.content
        place = _TO_CALLS
    for call in message.calls:
        yield place, call.name
        yield _MIDDLE, rendering.json_text(call.arguments, layout.arguments)
        if layout.call_ids:
            yield _BEFORE_ID, call.id
        place = _BETWEEN


def _last_part(parts: Parts) -> Part:
    return "last" if parts[-1] == "user" else parts[-1]


def _assembled(texts: dict[_Place, str], layout: _Layout, stops: Sequence[str]) -> ToolTemplate:
    if _MIDDLE not in texts:
        raise Inexpressible("it writes no call as a name with arguments behind it")
    named = {_MIDDLE, _BEFORE_ID, _BETWEEN, _TO_CALLS, _RESULT}
    between: dict[Part, dict[Part, tuple[str, ...]]] = defaultdict(dict)
    for place, text in texts.items():
        if place not in named:
            before, part = place
            between[before][part] = tuple(text.split(_TOOLS))  # type: ignore[index] # both are parts
    if any(len(frame) > 2 for frames in between.values() for frame in frames.values()):
        raise Inexpressible("it writes the tools several times")
    opening, ending = _opening(texts), _ending(texts, stops)
    return ToolTemplate(
        between=_without_last(between),
        tool=layout.tool,
        call=CallForm(
            opening=opening,
            marker=_JSON_BEGINS.split(opening)[0].strip(),
            middle=texts[_MIDDLE],
            ending=ending,
            arguments=layout.arguments,
            before_id=texts.get(_BEFORE_ID),
            between=texts.get(_BETWEEN),
        ),
        result=ResultForm(middle=texts.get(_RESULT), id_first=layout.result_ids and layout.id_first),
        text_to_calls=texts.get(_TO_CALLS),
    )


def _opening(texts: dict[_Place, str]) -> str:
    """Return the text with which an answer begins a call, the same after a user's message and a result."""
    found = set()
    for before in ("last", "tool"):
        prompt, calling = texts.get((before, "")), texts.get((before, "calls"))
        if prompt is not None and calling is not None:
            found.add(calling.removeprefix(prompt) if calling.startswith(prompt) else "")
    if len(found) != 1 or not (opening := found.pop()):
        raise Inexpressible("an answer that begins with a call doesn't begin as answers do")
    return opening


def _ending(texts: dict[_Place, str], stops: Sequence[str]) -> str:
    """Return the text behind the last call until the token that ends the answer."""
    text = texts.get(("calls", "tool"), "")
    places = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not places:
        raise Inexpressible("no token that ends an answer follows a call")
    return text[: min(places)]


def _without_last(
    between: dict[Part, dict[Part, tuple[str, ...]]],
) -> dict[Part, dict[Part, tuple[str, ...]]]:
    """Join `last` with `user` where the template doesn't tell them apart."""
    merged: dict[Part, dict[Part, tuple[str, ...]]] = defaultdict(dict)
    for before, frames in between.items():
        for part, frame in frames.items():
            one: Part = "user" if before == "last" else before
            other: Part = "user" if part == "last" else part
            if merged[one].setdefault(other, frame) != frame:
                return {before: dict(frames) for before, frames in between.items()}
    return {before: dict(frames) for before, frames in merged.items()}


def _with_contents(render: Render, template: ToolTemplate, every: Sequence[tuple[Parts, int]]) -> ToolTemplate:
    """Find the form of each part's contents: as they are, without white space at their ends, or in JSON."""
    contents = dict[Part, Literal["trim", "json"]]()
    for part in sorted({it for parts, _ in every for it in parts} - {"calls"}):
        texts = (render(_spaced(parts, part), probes.TOOLS) for parts, _ in every if part in parts)
        text = next((it for it in texts if it is not None), _SPACED)
        if _SPACED not in text:
            contents[part] = "json" if rendering.json_text(_SPACED, JsonForm()) in text else "trim"
    if "user" in contents and "last" in template.between:
        contents["last"] = contents["user"]
    return msgspec.structs.replace(template, contents=contents)


def _spaced(parts: Parts, part: Part) -> list[Message]:
    return [
        msgspec.structs.replace(message, content=_SPACED) if it == part else message
        for it, message in zip(parts, probes.marked(parts), strict=True)
    ]


def _compared(render: Render, template: ToolTemplate, every: Sequence[tuple[Parts, int]]) -> ToolTemplate:
    """Return the data if it renders all conversations as the template does."""
    for number, (parts, calls) in enumerate(every):
        tools = probes.tool_set(number)
        for messages in probes.hard(parts, calls=calls, first=number):
            try:
                text = rendering.render(messages, tools, template)
            except UsageError:
                continue  # the device refuses it
            if text != render(messages, tools):
                raise Inexpressible("its text depends on the contents of messages or tools, or on their number")
    return template
