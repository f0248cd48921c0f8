"""Plots as inline SVG. They take numbers and labels; which ones is `sections`' business.

Drawn 400 units wide, about a phone's width, so that the lettering stays readable there; colours are the style's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edgeml.report.markup import Element, el

Kind = Literal["fp32", "int8", "failed"]

WIDTH: Final = 400
_ROW: Final = 44
_BAR: Final = 14
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 40
_SCATTER_HEIGHT: Final = 260
#: Letters of a label that fit on a row beside its value.
_LABEL_CHARS: Final = 28


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row: its label, its value in words, and marks from the shortest to the longest."""

    label: str
    summary: str
    marks: tuple[float, ...]
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row with two values on one scale from 0 to 1."""

    label: str
    summary: str
    fp32: float
    int8: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """A numbered point."""

    number: str
    x: float
    y: float
    kind: Kind


def bars(rows: Sequence[Bar], summary: str) -> Element:
    """Bars from zero on one scale; further marks of a row follow its first as paler pieces."""
    longest = max((mark for row in rows for mark in row.marks), default=0) or 1
    drawn: list[Element] = []
    for number, row in enumerate(rows):
        drawn += _row_words(number, row.label, row.summary)
        begins = 0.0
        for piece, mark in enumerate(row.marks):
            ends = WIDTH * mark / longest
            shape = {"x": _n(begins), "y": number * _ROW + 20, "width": _n(max(0.0, ends - begins)), "height": _BAR}
            drawn.append(el("rect", class_=f"{row.kind} piece{piece}", **shape))
            begins = max(begins, ends)
    return _svg(len(rows) * _ROW, summary, *drawn)


def pairs(rows: Sequence[Pair], summary: str) -> Element:
    """Two dots a row, with a line between them: the hollow one is fp32."""
    drawn: list[Element] = []
    for number, row in enumerate(rows):
        drawn += _row_words(number, row.label, row.summary)
        y = number * _ROW + 27
        one, other = (8 + (WIDTH - 16) * min(1.0, max(0.0, share)) for share in (row.fp32, row.int8))
        kind = "failed" if row.int8 < row.fp32 else "int8"
        drawn += [
            el("line", class_="axis", x1=0, x2=WIDTH, y1=y, y2=y),
            el("line", class_=f"between {kind}", x1=_n(one), x2=_n(other), y1=y, y2=y),
            el("circle", class_="fp32 hollow", cx=_n(one), cy=y, r=6),
            el("circle", class_=kind, cx=_n(other), cy=y, r=4),
        ]
    return _svg(len(rows) * _ROW, summary, *drawn)


def scatter(points: Sequence[Point], x_title: str, y_title: str, summary: str) -> Element:
    """Points on two axes; x begins at zero, y spans the points."""
    right, bottom = WIDTH - _RIGHT, _SCATTER_HEIGHT - _BOTTOM
    x_max = max(point.x for point in points) * 1.1 or 1
    low, high = _span([point.y for point in points])
    drawn = [
        *_y_ticks(low, high, bottom, right),
        *_x_ticks(x_max, bottom, right),
        el("text", x_title, x=right, y=_SCATTER_HEIGHT - 6, text_anchor="end", class_="muted"),
        el("text", y_title, x=0, y=10, class_="muted"),
    ]
    for point in points:
        x = _LEFT + (right - _LEFT) * point.x / x_max
        y = bottom - (bottom - _TOP - 14) * (point.y - low) / (high - low)
        drawn += [
            el("circle", class_=f"{point.kind} dot", cx=_n(x), cy=_n(y), r=11),
            el("text", point.number, x=_n(x), y=_n(y + 4), text_anchor="middle", class_="number"),
        ]
    return _svg(_SCATTER_HEIGHT, summary, *drawn)


def _x_ticks(x_max: float, bottom: float, right: float) -> list[Element]:
    drawn = [el("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom)]
    for value in _ticks(0, x_max):
        x = _LEFT + (right - _LEFT) * value / x_max
        drawn.append(el("text", f"{value:.6g}", x=_n(x), y=bottom + 16, text_anchor="middle", class_="muted"))
    return drawn


def _y_ticks(low: float, high: float, bottom: float, right: float) -> list[Element]:
    drawn = []
    for value in _ticks(low, high):
        y = bottom - (bottom - _TOP - 14) * (value - low) / (high - low)
        drawn += [
            el("line", class_="axis", x1=_LEFT, x2=right, y1=_n(y), y2=_n(y)),
            el("text", f"{value:.6g}", x=_LEFT - 6, y=_n(y + 4), text_anchor="end", class_="muted"),
        ]
    return drawn


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, at most eight."""
    tenth = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(tenth * factor for factor in (1, 2, 5, 10) if tenth * factor * 6 >= high - low)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.15 or abs(high) * 0.01 or 0.01
    return low - margin, high + margin


def _row_words(number: int, label: str, summary: str) -> list[Element]:
    short = label if len(label) <= _LABEL_CHARS else f"{label[: _LABEL_CHARS - 1]}…"
    y = number * _ROW + 14
    return [
        el("text", el("title", label), short, x=0, y=y),
        el("text", summary, x=WIDTH, y=y, text_anchor="end", class_="muted"),
    ]


def _svg(height: int, summary: str, *drawn: Element) -> Element:
    return el("svg", *drawn, view_box=f"0 0 {WIDTH} {height}", role="img", aria_label=summary)


def _n(value: float) -> str:
    return f"{value:.1f}"
