"""The grammar of answers that may call tools, in llguidance's form of Lark, from a manifest's call form and schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from edgeml_core.tool_template import CallForm, JsonForm
from edgeml_runtime.generate import grammar_limits
from edgeml_runtime.generate.options import CONSTRAINT_MAX_BYTES, Constraint, ToolError, Tools

#: Calls of one answer, more of which the grammar doesn't allow.
CALLS_MAX: Final = 16
#: Characters with a meaning in Rust's regular expressions, and the one that ends them in Lark.
_SYNTAX: Final = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~/]")
#: A function without parameters takes an empty object. Source: OpenAI's API reference.
_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


def constraint(tools: Tools, form: CallForm, added: Mapping[str, int]) -> Constraint:
    """Write the grammar of an answer to a request with tools.

    Args:
        added: the ids of tokens that the tokenizer keeps whole, special ones among them, by their texts.

    Raises:
        FormatError: `input-invalid`, when the parameters exceed a limit or aren't those of an object.
    """
    calls = [_call(it["function"], form) for it in tools.given if it["function"]["name"] in tools.callable]
    between = "" if form.between is None or not tools.several else _without_id(form, form.between)
    more = f" ({_literal(between, added)} call){{0,{CALLS_MAX - 1}}}" if between else ""
    behind = f"call{more} {_literal(_without_id(form, form.ending), added)}"
    if tools.choice == "required":
        rules = [f"start: {_literal(form.opening, added)} {behind}"]
    else:
        start, *rules = _text_or(form, behind, added)
        rules = [start if tools.choice == "auto" else "start: TEXT", *rules]
    rules += ["call: " + " | ".join(f"call_{number}" for number in range(len(calls)))]
    rules += [f"call_{number}: {it}" for number, it in enumerate(calls)]
    return Constraint("grammar", "\n".join(["%llguidance {}", *rules]))


def schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a function's arguments, which is one of objects.

    Raises:
        FormatError: `input-invalid`, when it is one of other values, or exceeds a limit.
    """
    found = function.get("parameters") or _NO_PARAMETERS
    # llguidance takes any value for a schema without a type.
    if not isinstance(found, dict) or found.get("type", "object") != "object":
        raise ToolError(f"the parameters of {function['name']!r} aren't those of an object", 'send "type": "object"')
    grammar_limits.check_schema(found)
    return {**found, "type": "object"}


def _call(function: Mapping[str, Any], form: CallForm) -> str:
    item, key = _separators(form.arguments)
    layout = {"whitespace_flexible": False, "lenient": False, "item_separator": item, "key_separator": key}
    written = json.dumps({**schema(function), "x-guidance": layout}, ensure_ascii=False)
    if len(written.encode(errors="surrogatepass")) > CONSTRAINT_MAX_BYTES:
        message = f"the parameters of {function['name']!r} have more than {CONSTRAINT_MAX_BYTES} bytes"
        raise ToolError(message, "send a shorter schema")
    return f"{json.dumps(function['name'] + form.middle, ensure_ascii=False)} %json {written}"


def _separators(form: JsonForm) -> tuple[str, str]:
    """Return the separators of JSON on one line, which a model trained on several lines may write, too."""
    return form.separators or (", ", ": ")


def _without_id(form: CallForm, text: str) -> str:
    """Return the text behind a call's arguments: without its id, which the agent gives."""
    return text if form.before_id is None else text.removeprefix('"')


def _text_or(form: CallForm, behind: str, added: Mapping[str, int]) -> Iterator[str]:
    """Yield the rules of an answer that is a text, or calls behind a text; the first one is the start."""
    if not form.marker:
        yield f"start: TEXT | {_literal(form.opening, added)} {behind}"
        yield f"TEXT: /(.|\\n)*/ & ~/{_expression(form.opening)}(.|\\n)*/"
        return
    rest = _literal(form.opening.partition(form.marker)[2], added)
    found = f"/(.|\\n)*{_expression(form.marker)}"
    # llguidance matches some added tokens by their ids alone, and others by their texts.
    by_token = f"TEXT {_literal(form.marker, added)} | " if form.marker in added else ""
    yield f"start: TEXT | ({by_token}TO_CALL) {rest} {behind}"
    yield f"TEXT: /(.|\\n)*/ & ~{found}(.|\\n)*/"
    yield f"TO_CALL: {found}/ & ~{found}(.|\\n)+/"


def _literal(text: str, added: Mapping[str, int]) -> str:
    """Write a text for the grammar: added tokens by their ids."""
    pieces: Sequence[str] = [text]
    if added:
        longest = sorted(added, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, longest))})", text)
    written = [f"<[{added[it]}]>" if it in added else json.dumps(it, ensure_ascii=False) for it in pieces if it]
    return " ".join(written)


def _expression(text: str) -> str:
    return _SYNTAX.sub(r"\\\g<0>", text).replace("\n", "\\n")
