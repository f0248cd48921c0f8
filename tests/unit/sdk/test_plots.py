"""The geometry of the report's plots."""

import pytest

from edgeml.report import plots
from edgeml.report.plots import WIDTH, Bar, Circle, Pair, Point, Rect, Segment, Text


def of(plot, kind):
    """The shapes of a kind."""
    return [shape for shape in plot.shapes if isinstance(shape, kind)]


def test_bars_share_one_scale_from_zero():
    """The longest mark is as wide as the plot; further marks are pieces that begin where the one before ends."""
    rows = [
        Bar(label="fp32", summary="10", marks=(5.0, 8.0, 10.0), kind="fp32"),
        Bar(label="int8", summary="4", marks=(2.0, 3.0, 4.0), kind="int8"),
    ]
    first, second, third, other, *_ = of(plots.bars(rows, "Latency"), Rect)
    assert [float(it.x) for it in (first, second, third)] == [0, 200, 320]
    assert float(third.x) + float(third.width) == WIDTH
    assert float(other.width) == pytest.approx(WIDTH * 0.2)
    assert [it.style for it in (first, second, third, other)] == [
        "fp32 piece0",
        "fp32 piece1",
        "fp32 piece2",
        "int8 piece0",
    ]
    assert other.y > first.y


def test_bars_of_zeros_have_no_width():
    """A baseline without a size divides nothing by zero."""
    (bar,) = of(plots.bars([Bar(label="fp32", summary="0", marks=(0,), kind="fp32")], ""), Rect)
    assert float(bar.width) == 0


def test_bars_long_label_is_cut_and_kept_as_title():
    """A browser shows the whole text under the pointer."""
    label, _ = of(plots.bars([Bar(label="x" * 99, summary="", marks=(1,), kind="fp32")], ""), Text)
    assert (len(label.text), label.text[-1], label.title) == (28, "…", "x" * 99)


def test_pairs_mark_a_drop_as_failed():
    """Values beyond the scale are drawn at its ends."""
    rows = [
        Pair(label="a", summary="", fp32=0.9, int8=0.8),
        Pair(label="b", summary="", fp32=-1.0, int8=2.0),
    ]
    plot = plots.pairs(rows, "By class")
    assert [it.style for it in of(plot, Segment) if it.style != "axis"] == ["between failed", "between int8"]
    *_, low, high = of(plot, Circle)
    assert (float(low.x), float(high.x)) == (8, WIDTH - 8)


def test_scatter_keeps_points_inside_and_ticks_round():
    """Larger is further right and further up; ticks are multiples of 1, 2 or 5."""
    points = [Point(number="1", x=2.0, y=-9.0, kind="failed"), Point(number="fp", x=9.0, y=0.0, kind="fp32")]
    plot = plots.scatter(points, "ms", "%", "Candidates")
    worst, best = of(plot, Circle)
    assert float(worst.x) < float(best.x) < WIDTH
    assert 0 < float(best.y) < float(worst.y) < plot.height
    ticks = [it.text for it in of(plot, Text) if it.anchor == "end" and it.style == "muted"]
    assert ticks == ["-10", "-8", "-6", "-4", "-2", "0", "ms"]


def test_scatter_single_point_has_a_span():
    """One candidate, or several of one accuracy, divide nothing by zero."""
    for value in (0.0, 0.99):
        (dot,) = of(plots.scatter([Point(number="1", x=0.0, y=value, kind="int8")], "", "", ""), Circle)
        assert float(dot.x) > 0
