"""Mean average precision, worked by hand."""

from __future__ import annotations

import pytest

from edgeml.check import mean_average_precision
from edgeml.check.data import LabelledBox, Row
from edgeml_core.errors import UsageError
from edgeml_runtime.tasks import Image

LABELS = ("cow", "cat")
HERE, THERE = (0, 0, 10, 10), (20, 20, 40, 40)


def found(*boxes: tuple[str, float, tuple[int, ...]]) -> dict[str, object]:
    """An answer."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    return {
        "boxes": [{"label": it, "score": score, "box": dict(zip(edges, box, strict=True))} for it, score, box in boxes]
    }


def row(*boxes: tuple[str, tuple[float, ...]]) -> Row:
    """What should be found."""
    return Row(item=Image(b""), label=tuple(LabelledBox(label=label, box=box) for label, box in boxes))  # type: ignore[arg-type]


COW = row(("cow", HERE))


def share(*answers: dict[str, object], rows: tuple[Row, ...]) -> float:
    """The mean average precision of answers."""
    return mean_average_precision.measure(answers, answers, rows, LABELS).fp32  # type: ignore[arg-type]


def test_measure_boxes_in_place_count():
    """Half of the union is enough; a little less, or another label, is not."""
    near, far = (0, 0, 10, 20), (0, 0, 10, 21)
    assert share(found(("cow", 0.9, near)), found(), rows=(COW, row())) == 1
    assert share(found(("cow", 0.9, far)), found(), rows=(COW, row())) == 0
    assert share(found(("cat", 0.9, HERE)), found(), rows=(COW, row())) == 0


def test_measure_second_box_of_an_object_is_wrong():
    """The surer of two boxes is right, the other wrong; that costs nothing after the last object, and half before."""
    twice = found(("cow", 0.9, HERE), ("cow", 0.8, HERE))
    assert share(twice, found(), rows=(COW, row())) == 1
    later = found(("cow", 0.7, HERE))
    # Recall 1/2 at precision 1, then 2/3: 51 of 101 recalls at 1, 50 at 2/3.
    assert share(twice, later, rows=(COW, COW)) == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-6)


def test_measure_wrong_box_costs_by_its_score():
    """Before the right one it halves the precision, behind it nothing; in a picture without objects, too."""
    assert share(found(("cow", 0.5, HERE)), found(("cow", 0.9, HERE)), rows=(COW, row())) == 0.5
    assert share(found(("cow", 0.9, HERE)), found(("cow", 0.5, HERE)), rows=(COW, row())) == 1


def test_measure_labels_count_equally_worst_first():
    """All cows found, the only cat lost by int8; its class says so."""
    rows = (row(("cow", HERE), ("cat", THERE)), COW)
    fp32 = [found(("cow", 0.9, HERE), ("cat", 0.8, THERE)), found(("cow", 0.9, HERE))]
    int8 = [found(("cow", 0.9, HERE)), found(("cow", 0.9, HERE))]
    made = mean_average_precision.measure(fp32, int8, rows, LABELS)  # type: ignore[arg-type]
    assert (made.metric, made.rows, made.fp32, made.int8, made.drop) == (mean_average_precision.METRIC, 2, 1, 0.5, 0.5)
    assert [(it.label, it.rows, it.fp32, it.int8) for it in made.classes] == [("cat", 1, 1, 0), ("cow", 2, 1, 1)]


def test_measure_interval_is_over_pictures():
    """Of ten pictures int8 loses the object of two: the interval holds the drop and not much more; twice the same."""
    rows, fp32 = [COW] * 10, [found(("cow", 0.9, HERE))] * 10
    int8 = [*fp32[:8], found(), found()]
    made = mean_average_precision.measure(fp32, int8, rows, LABELS)  # type: ignore[arg-type]
    low, high = made.ci95
    assert 0 <= low < made.drop < high < 0.6
    assert mean_average_precision.measure(fp32, int8, rows, LABELS) == made  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rows",
    [
        (COW,),
        (row(), row()),
        (COW, row(("horse", HERE))),
        (COW, row(("cow", (10, 0, 0, 10)))),
        (COW, Row(item=Image(b""), label="cow")),
        (COW, Row(item=Image(b""))),
    ],
)
def test_measure_rows_without_boxes_are_refused(rows: tuple[Row, ...]):
    """One picture, no object, an unknown label, a box inside out, no boxes."""
    with pytest.raises(UsageError) as caught:
        share(*[found()] * len(rows), rows=rows)
    assert caught.value.code == "data-invalid"
