"""Limits of a constraint that llguidance has no limit for: short regular expressions and numbers that take it minutes.

A repeated text is spelled out by the library, and the multiples of an integer become as many states. Both are bounded
by an estimate from the constraint's text, which is never too low.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from edgeml_runtime.generate.options import FormatError

#: Characters of an expression with its counted repetitions spelled out; as many take some 60 ms.
EXPANDED_MAX_CHARS: Final = 64 * 1024
#: The least common multiple of all `multipleOf` in a schema; as many states take some 30 ms.
MULTIPLE_MAX: Final = 10_000
#: A larger number counts, and is shown, as this one: Python neither reads nor writes one of 4,301 digits.
_NUMBER_MAX: Final = 10**20
#: The flag x lets comments stand inside of repetitions, which the estimate doesn't read.
_COMMENTS: Final = re.compile(r"\(\?[a-zA-Z]*x")
#: No part of an expression is read twice, also where an escape or a class has no end: the library refuses those.
_TOKEN: Final = re.compile(
    r"\\(?:[pPxuU]\{[^}]*+(?:\}|\Z)|.)"  # an escape
    r"|\[\^?(?:\\.|[^\]\\])*+(?:\]|\\?\Z)"  # a class
    r"|\{\s*+(?P<least>\d++)\s*+(?:,\s*+(?P<most>\d*+)\s*+)?+\}"  # a counted repetition
    r"|.",
    re.DOTALL,
)


def check_regex(expression: str) -> None:
    """Check the length of an expression with its repetitions spelled out.

    Raises:
        FormatError: `input-invalid`, when it is longer than `EXPANDED_MAX_CHARS`, or has the flag x.
    """
    if _COMMENTS.search(expression):
        raise FormatError("a regular expression has the flag x", "write it without white space and comments")
    length = _expanded_chars(expression)
    if length > EXPANDED_MAX_CHARS:
        message = f"a regular expression stands for {min(length, _NUMBER_MAX)} characters, its repetitions spelled out"
        raise FormatError(message, f"repeat less: {EXPANDED_MAX_CHARS} characters at most")


def check_schema(schema: dict[str, Any]) -> None:
    """Check the expressions and multiples in a JSON schema.

    Raises:
        FormatError: `input-invalid`, when an expression is too long, or multiples exceed `MULTIPLE_MAX`.
    """
    multiple = 1
    for key, value in _members(schema):
        if key == "pattern" and isinstance(value, str):
            check_regex(value)
        elif key == "patternProperties" and isinstance(value, dict):
            for expression in value:
                check_regex(expression)
        elif key == "multipleOf" and isinstance(value, int | float):
            multiple = min(math.lcm(multiple, abs(_digits(value)) or 1), _NUMBER_MAX)
    if multiple > MULTIPLE_MAX:
        message = f"the least common multiple of the schema's multipleOf has the digits {multiple}"
        raise FormatError(message, f"send multiples of {MULTIPLE_MAX} at most")


def _expanded_chars(expression: str) -> int:
    """Count the characters, each counted repetition spelled out; an alternative counts as all of its parts."""
    open_groups, total, last = list[int](), 0, 0
    for token in _TOKEN.finditer(expression):
        text = token[0]
        if text == "(":
            open_groups.append(total)
            total, last = 0, 0
        elif text == ")" and open_groups:
            last, before = max(total, 1), open_groups.pop()
            total = before + last
        elif token["least"] is not None:
            repeated = min(last * max(_number(token["least"]), _number(token["most"] or "0"), 1), _NUMBER_MAX)
            total, last = total - last + repeated, repeated
        elif text not in "*+?":
            total, last = total + 1, 1
    return total + sum(open_groups)


def _number(digits: str) -> int:
    return int(digits) if len(digits) < len(str(_NUMBER_MAX)) else _NUMBER_MAX


def _digits(number: float) -> int:
    """Return the digits of a decimal number without its point and its last zeros behind it."""
    _, digits, exponent = Decimal(str(number)).as_tuple()
    value = int("".join(map(str, digits)))
    return value * 10**exponent if isinstance(exponent, int) and exponent > 0 else value


def _members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for it in value:
            yield from _members(it)
