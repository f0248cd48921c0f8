"""The part of a chat template that writes tools, as plain data in a bundle's manifest: tools, calls and results.

The export derives it, `edgeml_runtime.generate.tools` renders it, and answers are parsed by it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: The parts of a conversation that a template tells apart. The empty one is the outside. `last` is the user's last
#: message, and those equal to it, where they differ from earlier ones. `calls` stand alone, `both` behind a text.
Part = Literal["", "system", "user", "last", "assistant", "calls", "both", "tool"]


class JsonForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a template writes JSON: Python's `json.dumps` with these options, and characters beyond ASCII as they are."""

    indent: int | None = None
    separators: tuple[str, str] | None = None


class ToolForm(JsonForm, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How each tool is written: the whole of it, or its `function` alone.

    With `raw_texts` the function's own texts stand between quotation marks as they are, without escapes.
    """

    between: str = ""
    function_alone: bool = False
    raw_texts: bool = False


class CallForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a call is written: a name, the text `middle`, the arguments in JSON, and perhaps an id behind `before_id`.

    Attributes:
        opening: begins the first call of an answer, up to its name.
        marker: the part of `opening` that announces a call within a text; empty where only a whole answer is a call.
        ending: ends an answer behind its last call.
        between: stands between two calls; None where a message has one call only.
    """

    opening: str
    marker: str
    middle: str
    ending: str
    arguments: JsonForm = JsonForm()
    before_id: str | None = None
    between: str | None = None


class ResultForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a tool's result names its call: the text `middle` between both; `id_first` puts the call's id before it."""

    middle: str | None = None
    id_first: bool = False


class ToolTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A chat template in requests with tools.

    `between[A][B]` precedes part B after part A: one text, or two, between which the tools stand.

    Attributes:
        contents: the form of each part's content that isn't written as it is.
        text_to_calls: stands between a message's text and its first call; None where the text is left out.
    """

    between: dict[Part, dict[Part, tuple[str, ...]]]
    tool: ToolForm
    call: CallForm
    result: ResultForm = ResultForm()
    contents: dict[Part, Literal["trim", "json"]] = {}
    text_to_calls: str | None = None
