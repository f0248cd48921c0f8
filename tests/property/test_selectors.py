"""Selectors, judged by plain Python: another reading of the same terms, over all labels of a small world."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgeml_core import selectors
from edgeml_core.errors import UsageError

VALUES = ("x", "y", "z")
#: Every device of the world: keys `a` and `b`, each with one of the values or without the label.
WORLD = [
    {key: value for key, value in zip("ab", values, strict=True) if value is not None}
    for values in itertools.product((None, *VALUES), repeat=2)
]
#: A term as data: key, one of the six forms, values.
Term = tuple[str, str, tuple[str, ...]]
#: The label `c` is no device's.
TERMS = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from(["=", "!=", "in", "not in", "has", "lacks"]),
    st.lists(st.sampled_from(VALUES), min_size=1, max_size=3).map(tuple),
)
GROUPS = st.lists(st.lists(TERMS, min_size=1, max_size=3), max_size=3)
SPACE = st.sampled_from(["", " "])


def written(groups: list[list[Term]], space: str) -> str:
    """Write terms as an operator may type them."""

    def term(key: str, form: str, values: tuple[str, ...]) -> str:
        if form in ("=", "!="):
            return f"{key}{space}{form}{space}{values[0]}"
        if form in ("in", "not in"):
            return f"{key} {form}{space}({space}{f',{space}'.join(values)})"
        return key if form == "has" else f"!{space}{key}"

    return " or ".join(f"{space},{space}".join(term(*it) for it in group) for group in groups)


def holds(groups: list[list[Term]], labels: dict[str, str]) -> bool:
    """Evaluate the terms without edgeml's code."""
    any_group = not groups
    for group in groups:
        good = True
        for key, form, values in group:
            has = key in labels
            if form == "=":
                good &= has and labels[key] == values[0]
            elif form == "!=":
                good &= not has or labels[key] != values[0]
            elif form == "in":
                good &= has and labels[key] in list(values)
            elif form == "not in":
                good &= not (has and labels[key] in list(values))
            else:
                good &= has if form == "has" else not has
        any_group |= good
    return any_group


@given(GROUPS, SPACE)
def test_a_selector_selects_what_plain_python_selects(groups, space):
    """For every device of the world; and the canonical text, read again, is the same selector and the same text."""
    selector = selectors.parse(written(groups, space))
    for labels in WORLD:
        assert selectors.matches(written(groups, space), "one", labels) == holds(groups, labels)
        assert selectors.matches(str(selector), "one", labels) == holds(groups, labels)
    assert selectors.parse(str(selector)) == selector
    assert str(selectors.parse(str(selector))) == str(selector)


@given(GROUPS, GROUPS)
def test_a_selector_covers_another_only_if_it_takes_all_of_its_devices(first, second):
    """A deployment replaces those that it covers, so no device may be lost. Both together select the intersection."""
    one, two = selectors.parse(written(first, "")), selectors.parse(written(second, ""))
    narrow = {n for n, labels in enumerate(WORLD) if holds(second, labels)}
    wide = {n for n, labels in enumerate(WORLD) if holds(first, labels)}
    if one.covers(two):
        assert narrow <= wide
    assert one.covers(one)
    assert {n for n, labels in enumerate(WORLD) if one.both(two).matches(labels)} == narrow & wide


@given(st.text(alphabet="ab=!,() inort-x1", max_size=60) | st.text(max_size=60))
def test_no_text_breaks_the_parser(text):
    """It is a selector that writes itself, or refused as usage."""
    try:
        selector = selectors.parse(text)
    except UsageError:
        return
    assert selectors.parse(str(selector)) == selector
