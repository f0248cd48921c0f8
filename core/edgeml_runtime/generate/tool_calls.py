"""Calls of tools parsed out of an answer while it is written, by the form that a manifest's chat template gives them.

A text that begins as a call and is none stays text: nothing of it is lost.
"""

from __future__ import annotations

import json
import re
from typing import Final, Literal

from edgeml_core.tool_template import CallForm
from edgeml_runtime.generate.options import CallDelta, Tools

_NAME: Final = r"(?P<name>[\w.-]+)"
_ID: Final = r"[\w.-]*\""
_SPACE: Final = r"\s*"
_PUNCTUATION: Final = frozenset("{}[]:,")

#: `head` is a call up to its arguments, `behind` the text behind a call; `plain` is a text that has no call.
_State = Literal["text", "head", "arguments", "behind", "plain"]


class CallReader:
    """Splits one answer into its text and its calls.

    Args:
        form: of the model's calls.
        tools: of the request.
        at_once: whether arguments are returned as they are written, since the answer's form is certain. Else they are
            held back until they are a whole object.
    """

    def __init__(self, form: CallForm, tools: Tools, *, at_once: bool) -> None:
        #: Whether the answer has all calls that the request allows.
        self.complete = False
        self._marker, self._opening = form.marker, _squeezed(form.opening)
        self._names, self._at_once = frozenset(tools.callable), at_once
        call = f"{_NAME}{_lenient(form.middle)}"
        self._head = re.compile(_lenient(form.opening) + call)
        several = tools.several and form.between is not None
        self._another = re.compile(_between(form) + call) if several else None
        self._state: _State = "text"
        self._text = ""
        #: Characters returned as text, the places where the first call and the state begin, and the calls so far.
        self._returned = self._first = self._begun = self._calls = 0
        self._scan = _ObjectEnd()

    def add(self, text: str) -> tuple[str, tuple[CallDelta, ...]]:
        """Take the next piece of the answer, and return the text and the calls that it makes certain."""
        self._text += text
        calls = list[CallDelta]()
        while self._advance(calls):
            pass
        if self._state == "plain":
            return self._until(len(self._text)), tuple(calls)
        if self._state == "text" and self._marker:
            certain = self._text[: len(self._text) - _overlap(self._text, self._marker)]
            return self._until(len(certain.rstrip())), tuple(calls)
        return self._until(len(self._text[: self._first].rstrip())), tuple(calls)

    def rest(self) -> str:
        """Return the text that was held back, when the answer ends; behind calls there is none."""
        return "" if self._calls else self._until(len(self._text))

    def _until(self, end: int) -> str:
        piece = self._text[self._returned : end]
        self._returned = max(self._returned, end)
        return piece

    def _advance(self, calls: list[CallDelta]) -> bool:
        """Go on to the next state, and return whether there is one."""
        match self._state:
            case "text":
                return self._find_call()
            case "head":
                return self._begin(self._head, calls)
            case "arguments":
                return self._take_arguments(calls)
            case "behind" if self._another is not None:
                return self._begin(self._another, calls)
            case _:
                return False

    def _find_call(self) -> bool:
        if self._marker:
            found = self._text.find(self._marker)
            if found >= 0:
                self._state, self._first, self._begun = "head", found, found
            return found >= 0
        beginning = _squeezed(self._text)[: len(self._opening)]
        if beginning and not self._opening.startswith(beginning):
            self._state = "plain"
        elif beginning == self._opening:
            self._state = "head"
        return self._state != "text"

    def _begin(self, head: re.Pattern[str], calls: list[CallDelta]) -> bool:
        found = head.match(self._text, self._begun)
        if found is None:
            return False
        if found["name"] not in self._names:
            return self._give_up()
        self._state, self._begun, self._scan = "arguments", found.end(), _ObjectEnd()
        self._name = found["name"]
        if self._at_once:
            calls.append(CallDelta(index=self._calls, name=self._name))
            self._calls += 1
        return True

    def _take_arguments(self, calls: list[CallDelta]) -> bool:
        if not self._scan.length:
            self._begun += len(self._text[self._begun :]) - len(self._text[self._begun :].lstrip())
        new = self._text[self._begun + self._scan.length :]
        taken = self._scan.add(new)
        if self._at_once and taken:
            calls.append(CallDelta(index=self._calls - 1, arguments=new[:taken]))
        if not self._scan.ended:
            return False
        written = self._text[self._begun : self._begun + self._scan.length]
        if not self._at_once:
            if not _is_object(written):
                return self._give_up()
            calls.append(CallDelta(index=self._calls, name=self._name, arguments=written))
            self._calls += 1
        self._state, self._begun = "behind", self._begun + self._scan.length
        self.complete = self._another is None
        return True

    def _give_up(self) -> bool:
        """Take the rest for text, or, behind a call, for nothing."""
        self._state = "behind" if self._calls else "plain"
        self.complete, self._another = self._calls > 0, None
        return False


class _ObjectEnd:
    """Finds the end of a JSON object in pieces of text."""

    def __init__(self) -> None:
        #: Characters taken, and whether the object is whole, or the text is none.
        self.length, self.ended = 0, False
        self._depth = 0
        self._quoted = self._escaped = False

    def add(self, text: str) -> int:
        """Take a piece, and return the number of its characters that belong to the object."""
        for number, character in enumerate(text):
            self._take(character)
            if self.ended:
                self.length += number + 1
                return number + 1
        self.length += len(text)
        return len(text)

    def _take(self, character: str) -> None:
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        self.ended = self._depth <= 0


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _between(form: CallForm) -> str:
    """Write the expression of the text between two calls, in which a model may leave the id out."""
    if form.before_id is None:
        return _lenient(form.between or "")
    return f"(?:{_lenient(form.before_id)}{_ID})?{_lenient((form.between or '').removeprefix(chr(34)))}"


def _lenient(text: str) -> str:
    """Write the expression of a text whose white space may differ, also beside JSON's punctuation."""
    spaced = (
        _SPACE if it.isspace() else f"{_SPACE}{re.escape(it)}{_SPACE}" if it in _PUNCTUATION else re.escape(it)
        for it in text
    )
    return re.sub(r"(?:\\s\*)+", r"\\s*", "".join(spaced))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _overlap(text: str, marker: str) -> int:
    """Count the characters at the end of `text` that may be the beginning of `marker`."""
    return max((length for length in range(1, len(marker)) if text.endswith(marker[:length])), default=0)
