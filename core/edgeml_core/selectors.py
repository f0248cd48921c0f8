"""Selectors: which devices a deployment is for, as one line of text that is signed. No lookups of devices.

    site=farm-7,board!=rpi4        both hold
    site in (farm-7,farm-8)        one of these values
    canary or site=office          one of the two groups holds
    gpu,!old                       has a label `gpu`, has no label `old`
    device in (barn-1,barn-2)      these devices

`!=` and `!key` also match a device that lacks the label. The label `device` is the device's id, and can't be enrolled.
An empty selector matches every device. Equal sets of terms are written alike, so their texts are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec

from edgeml_core import names
from edgeml_core.errors import UsageError

#: Characters of a selector: a document of 16 KiB holds several at this length.
SELECTOR_MAX_CHARS: Final = 1024
#: Terms of a selector. A person writes a few; a device evaluates all of them for every deployment.
TERMS_MAX: Final = 64
#: The text of a selector for all devices.
EVERYONE: Final = ""

_OR: Final = re.compile(r"\s+or\s+")
#: Commas outside parentheses.
_COMMA: Final = re.compile(r",(?![^(]*\))")
_EQUAL: Final = re.compile(r"([^\s!=(),]+)\s*(!?)=\s*([^\s!=(),]+)")
_AMONG: Final = re.compile(r"([^\s!=(),]+)\s+(not\s+)?in\s*\(([^()]*)\)")
_PRESENT: Final = re.compile(r"(!?)\s*([^\s!=(),]+)")
_HINT: Final = "write it like site=farm-7, board!=rpi4, 'site in (a,b)', gpu, !gpu; a comma is and, ` or ` is or"


class Operator(StrEnum):
    """How a term looks at one label."""

    IN = "in"
    NOT_IN = "not in"
    EXISTS = "exists"
    ABSENT = "absent"


class Term(msgspec.Struct, frozen=True, order=True):
    """One condition on one label. `values` are sorted, and empty unless the operator compares values."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write the term: one value with `=` or `!=`, more with `in (...)`."""
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.ABSENT:
                return f"!{self.key}"
            case _ if len(self.values) == 1:
                return f"{self.key}{'=' if self.operator is Operator.IN else '!='}{self.values[0]}"
            case _:
                return f"{self.key} {self.operator} ({','.join(self.values)})"

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether the condition holds for these labels."""
        return _HOLDS[self.operator](labels.get(self.key), self.values)

    def implies(self, other: Term) -> bool:
        """Return whether all labels that fulfil this term fulfil the other one."""
        if self.key != other.key:
            return False
        mine, theirs = set(self.values), set(other.values)
        match self.operator, other.operator:
            case Operator.IN, Operator.IN:
                return mine <= theirs
            case Operator.IN, Operator.NOT_IN:
                return not mine & theirs
            case Operator.NOT_IN, Operator.NOT_IN:
                return theirs <= mine
            case (Operator.IN | Operator.EXISTS, Operator.EXISTS) | (
                Operator.ABSENT,
                Operator.ABSENT | Operator.NOT_IN,
            ):
                return True
            case _:
                return False


_HOLDS: Final[dict[Operator, Callable[[str | None, tuple[str, ...]], bool]]] = {
    Operator.IN: lambda value, values: value in values,
    Operator.NOT_IN: lambda value, values: value not in values,
    Operator.EXISTS: lambda value, _: value is not None,
    Operator.ABSENT: lambda value, _: value is None,
}


class Selector(msgspec.Struct, frozen=True):
    """Groups of terms: all terms of at least one group must hold. No groups match every device."""

    groups: tuple[tuple[Term, ...], ...] = ()

    def __str__(self) -> str:
        """Write the selector, so that `parse` reads the same one."""
        return " or ".join(",".join(map(str, group)) for group in self.groups)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a device with these labels is selected."""
        return not self.groups or any(all(term.matches(labels) for term in group) for group in self.groups)

    def covers(self, other: Selector) -> bool:
        """Return whether every device that the other one selects is selected here. False if the terms don't show it."""
        return not self.groups or (
            bool(other.groups) and all(any(_implies(group, wider) for wider in self.groups) for group in other.groups)
        )

    def both(self, other: Selector) -> Selector:
        """Return the selector for the devices that both select.

        Raises:
            UsageError: `usage`, when it is above the limits.
        """
        if not self.groups or not other.groups:
            return self if self.groups else other
        return _checked(_selector([*mine, *theirs] for mine in self.groups for theirs in other.groups))


def parse(text: str) -> Selector:
    """Parse a selector.

    Raises:
        UsageError: `usage`, when it is malformed or above the limits.

    >>> str(parse("board != rpi4, site=b or site in (d, c)"))
    'board!=rpi4,site=b or site in (c,d)'
    """
    if len(text) > SELECTOR_MAX_CHARS:
        message = f"the selector has {len(text)} characters, limit {SELECTOR_MAX_CHARS}"
        raise UsageError("usage", message, "give the devices a common label and select by that")
    return _parse(text)


def parse_all(texts: Iterable[str], *, devices: Iterable[str] = ()) -> Selector:
    """Parse selectors that must all hold, and the ids of devices of which a device must be one.

    Raises:
        UsageError: `usage`, when one is malformed, or all together are above the limits.
    """
    selector = Selector()
    for text in texts:
        selector = selector.both(parse(text))
    return selector.both(of_devices(*devices))


def of_devices(*devices: str) -> Selector:
    """Return the selector for devices by id; none gives every device.

    Raises:
        UsageError: `usage`, when an id is no name, or they are above the limits.
    """
    ids = tuple(sorted({names.require_name(it, "device") for it in devices}))
    return _checked(_selector([[Term(names.DEVICE_LABEL, Operator.IN, ids)]] if ids else []))


def matches(text: str, device: str, labels: Mapping[str, str]) -> bool:
    """Return whether a signed selector selects a device with these signed labels."""
    return _parse(text).matches({**labels, names.DEVICE_LABEL: device})


@lru_cache(maxsize=256)
def _parse(text: str) -> Selector:
    if not text.strip():
        return Selector()
    return _checked(
        _selector([_term(part.strip()) for part in _COMMA.split(group)] for group in _OR.split(text.strip()))
    )


def _selector(groups: Iterable[Iterable[Term]]) -> Selector:
    return Selector(groups=tuple(sorted({tuple(sorted(set(group))) for group in groups})))


def _checked(selector: Selector) -> Selector:
    terms, chars = sum(map(len, selector.groups)), len(str(selector))
    if terms > TERMS_MAX or chars > SELECTOR_MAX_CHARS:
        message = f"the selector has {terms} terms and {chars} characters, limits {TERMS_MAX} and {SELECTOR_MAX_CHARS}"
        raise UsageError("usage", message, "give the devices a common label and select by that")
    return selector


def _term(text: str) -> Term:
    if found := _EQUAL.fullmatch(text):
        operator = Operator.NOT_IN if found[2] else Operator.IN
        return _valid(text, Term(found[1], operator, (found[3],)))
    if found := _AMONG.fullmatch(text):
        values = tuple(sorted({value.strip() for value in found[3].split(",")}))
        return _valid(text, Term(found[1], Operator.NOT_IN if found[2] else Operator.IN, values))
    if found := _PRESENT.fullmatch(text):
        return _valid(text, Term(found[2], Operator.ABSENT if found[1] else Operator.EXISTS))
    raise UsageError("usage", f"{text!r} is no term of a selector", _HINT)


def _valid(text: str, term: Term) -> Term:
    if not names.is_name(term.key) or not all(map(names.is_label_value, term.values)):
        raise UsageError("usage", f"{text!r} has no valid label or value", _HINT)
    return term


def _implies(group: Iterable[Term], wider: Iterable[Term]) -> bool:
    return all(any(term.implies(it) for term in group) for it in wider)
