"""The geometry of the page's plots: numbers and labels become shapes, which the page's template writes as SVG.

A plot is 400 units wide, about a phone's width, so that its lettering stays readable there. `sections.py` chooses the
figures, and style.css the colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

#: The model that a shape stands for, or a candidate that failed the gate; it decides the colour.
Kind = Literal["fp32", "int8", "failed"]
Anchor = Literal["start", "middle", "end"]

#: Units of the plot's own coordinates, as all lengths here; a phone's width in CSS pixels.
WIDTH: Final = 400
#: Height of a row with its label above it, of its bar, and the bar's distance from the row's top.
_ROW: Final = 44
_BAR: Final = 14
_BAR_TOP: Final = 20
#: Margins of the scatter plot, with room for tick labels, and its height.
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 40
_SCATTER_HEIGHT: Final = 260
#: Characters of a label that fit on a row beside its value.
_LABEL_CHARS: Final = 28


@dataclass(frozen=True, kw_only=True)
class Rect:
    """A filled rectangle; `style` names its classes in style.css."""

    x: str
    y: str
    width: str
    height: str
    style: str
    shape: str = "rect"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A straight line."""

    x1: str
    y1: str
    x2: str
    y2: str
    style: str
    shape: str = "line"


@dataclass(frozen=True, kw_only=True)
class Circle:
    """A dot, or a ring."""

    x: str
    y: str
    radius: int
    style: str
    shape: str = "circle"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A label; `title` is its whole text, which a browser shows under the pointer."""

    x: str
    y: str
    text: str
    style: str = ""
    anchor: Anchor = "start"
    title: str = ""
    shape: str = "text"


Shape: TypeAlias = Rect | Segment | Circle | Text


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Shapes in the order in which they are drawn, and a sentence for readers who don't see them."""

    height: int
    summary: str
    shapes: tuple[Shape, ...]
    width: int = WIDTH


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row: its label, its value as text, and marks in ascending order."""

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


def bars(rows: Sequence[Bar], summary: str) -> Plot:
    """Draw bars from zero on one scale; the second and further marks of a row are paler pieces."""
    longest = max((mark for row in rows for mark in row.marks), default=0) or 1
    shapes = [shape for number, row in enumerate(rows) for shape in _bar(number, row, longest)]
    return Plot(height=len(rows) * _ROW, summary=summary, shapes=tuple(shapes))


def _bar(number: int, row: Bar, longest: float) -> Iterator[Shape]:
    yield from _row_labels(number, row.label, row.summary)
    left = 0.0
    for piece, mark in enumerate(row.marks):
        right = WIDTH * mark / longest
        yield Rect(
            x=_units(left),
            y=str(number * _ROW + _BAR_TOP),
            width=_units(max(0.0, right - left)),
            height=str(_BAR),
            style=f"{row.kind} piece{piece}",
        )
        left = max(left, right)


def pairs(rows: Sequence[Pair], summary: str) -> Plot:
    """Draw two dots in each row, joined by a line; the hollow dot is fp32."""
    shapes = [shape for number, row in enumerate(rows) for shape in _pair(number, row)]
    return Plot(height=len(rows) * _ROW, summary=summary, shapes=tuple(shapes))


def _pair(number: int, row: Pair) -> Iterator[Shape]:
    yield from _row_labels(number, row.label, row.summary)
    y = str(number * _ROW + _BAR_TOP + _BAR // 2)
    fp32, int8 = (_units(8 + (WIDTH - 16) * min(1.0, max(0.0, value))) for value in (row.fp32, row.int8))
    kind: Kind = "failed" if row.int8 < row.fp32 else "int8"
    yield Segment(x1="0", x2=str(WIDTH), y1=y, y2=y, style="axis")
    yield Segment(x1=fp32, x2=int8, y1=y, y2=y, style=f"between {kind}")
    yield Circle(x=fp32, y=y, radius=6, style="fp32 hollow")
    yield Circle(x=int8, y=y, radius=4, style=kind)


def scatter(points: Sequence[Point], x_title: str, y_title: str, summary: str) -> Plot:
    """Draw points on two axes; x begins at zero, y spans the points."""
    right, bottom = WIDTH - _RIGHT, _SCATTER_HEIGHT - _BOTTOM
    x_max = max(point.x for point in points) * 1.1 or 1
    low, high = _span([point.y for point in points])
    shapes: list[Shape] = [
        *_y_ticks(low, high, bottom, right),
        *_x_ticks(x_max, bottom, right),
        Text(text=x_title, x=str(right), y=str(_SCATTER_HEIGHT - 6), anchor="end", style="muted"),
        Text(text=y_title, x="0", y="10", style="muted"),
    ]
    for point in points:
        x = _LEFT + (right - _LEFT) * point.x / x_max
        y = bottom - (bottom - _TOP - 14) * (point.y - low) / (high - low)
        shapes.append(Circle(x=_units(x), y=_units(y), radius=11, style=f"{point.kind} dot"))
        shapes.append(Text(text=point.number, x=_units(x), y=_units(y + 4), anchor="middle", style="number"))
    return Plot(height=_SCATTER_HEIGHT, summary=summary, shapes=tuple(shapes))


def _x_ticks(x_max: float, bottom: int, right: int) -> Iterator[Shape]:
    yield Segment(x1=str(_LEFT), x2=str(right), y1=str(bottom), y2=str(bottom), style="axis")
    for value in _ticks(0, x_max):
        x = _LEFT + (right - _LEFT) * value / x_max
        yield Text(text=f"{value:.6g}", x=_units(x), y=str(bottom + 16), anchor="middle", style="muted")


def _y_ticks(low: float, high: float, bottom: int, right: int) -> Iterator[Shape]:
    for value in _ticks(low, high):
        y = bottom - (bottom - _TOP - 14) * (value - low) / (high - low)
        yield Segment(x1=str(_LEFT), x2=str(right), y1=_units(y), y2=_units(y), style="axis")
        yield Text(text=f"{value:.6g}", x=str(_LEFT - 6), y=_units(y + 4), anchor="end", style="muted")


def _ticks(low: float, high: float) -> list[float]:
    """Choose round numbers from `low` to `high`, at most eight."""
    tenth = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(tenth * factor for factor in (1, 2, 5, 10) if tenth * factor * 6 >= high - low)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.15 or abs(high) * 0.01 or 0.01
    return low - margin, high + margin


def _row_labels(number: int, label: str, summary: str) -> Iterator[Shape]:
    short = label if len(label) <= _LABEL_CHARS else f"{label[: _LABEL_CHARS - 1]}…"
    y = str(number * _ROW + 14)
    yield Text(text=short, title=label, x="0", y=y)
    yield Text(text=summary, x=str(WIDTH), y=y, anchor="end", style="muted")


def _units(value: float) -> str:
    return f"{value:.1f}"
