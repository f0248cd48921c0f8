"""From a detector's outputs to boxes, on numbers that can be checked by hand."""

import math

import numpy as np
import pytest

from edgeml_core.errors import RejectedError
from edgeml_core.processing import Boxes
from edgeml_runtime.postprocess.detection import boxes
from edgeml_runtime.tasks import Picture, Row
from edgeml_runtime.verify.agreement import agree

SPEC = Boxes(logits="l", boxes="b", labels=("cow", "cat"))
#: Nothing, a likely cat, a likelier cow, and one that is as likely nothing.
LOGITS = [[0, 0, 9], [0, 2, 0], [3, 0, 0], [1, 0, 1]]
BOXES = [[0.5, 0.5, 1, 1], [0.25, 0.5, 0.5, 0.25], [0.9, 0.5, 0.4, 1], [0.5, 0.5, 0.1, 0.1]]


def row(logits=LOGITS, centred=BOXES, threshold=None, picture=(200, 100)):
    width, height = picture
    outputs = {"l": np.asarray(logits, np.float32), "b": np.asarray(centred, np.float32)}
    return Row(outputs=outputs, about=Picture(width=width, height=height, threshold=threshold))


def test_boxes_are_in_pixels_highest_score_first():
    """What is likelier nothing than anything has no box; edges may lie outside of the picture."""
    cow, cat = boxes(row(), SPEC)["boxes"]
    assert (cow["label"], cat["label"]) == ("cow", "cat")
    assert cow["score"] == pytest.approx(math.exp(3) / (math.exp(3) + 2))
    assert cow["box"] == {"xmin": 140, "ymin": 0, "xmax": 220, "ymax": 100}
    assert cat["box"] == {"xmin": 0, "ymin": 37, "xmax": 100, "ymax": 62}


def test_boxes_request_threshold_overrides_the_models():
    """By its own threshold, which a score must exceed."""
    assert [it["label"] for it in boxes(row(threshold=0.4), SPEC)["boxes"]] == ["cow", "cat", "cow"]
    assert boxes(row(threshold=1.0), SPEC) == {"boxes": []}
    assert len(boxes(row(threshold=0.0), SPEC)["boxes"]) == 4


@pytest.mark.parametrize(
    "given",
    [
        row(logits=[[0, 1]] * 4),
        row(logits=[0, 1, 2]),
        row(centred=[[0, 0, 1]] * 4),
        row(centred=BOXES[:3]),
        Row(outputs=row().outputs),
    ],
)
def test_boxes_outputs_of_another_shape_raise(given):
    """Scores for other labels, boxes with three numbers or for fewer objects, or no picture at all."""
    with pytest.raises(RejectedError) as caught:
        boxes(given, SPEC)
    assert caught.value.code == "bundle-format"


def found(*objects):
    """An answer, of labels and boxes."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    return {
        "boxes": [{"label": label, "score": 0.9, "box": dict(zip(sides, box, strict=True))} for label, box in objects]
    }


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (found(("cat", (50, 50, 60, 60)), ("cow", (0, 0, 10, 12)), ("cow", (20, 0, 30, 10))), True),
        (found(("cow", (0, 0, 10, 10)), ("cow", (20, 0, 30, 10))), False),
        (found(("cat", (50, 50, 60, 60)), ("cow", (0, 0, 10, 10)), ("cow", (0, 0, 10, 10))), False),
        (found(("cow", (50, 50, 60, 60)), ("cow", (0, 0, 10, 10)), ("cow", (20, 0, 30, 10))), False),
    ],
)
def test_agree_boxes_by_labels_and_overlap(other, same):
    """Moved a little, in another order; but one fewer, one elsewhere, or one of another label is another answer."""
    one = found(("cow", (0, 0, 10, 10)), ("cow", (20, 0, 30, 10)), ("cat", (50, 50, 60, 60)))
    assert agree([one], [other], SPEC) is same
    assert agree([other], [one], SPEC) is same
    assert agree([boxes(row(threshold=1.0), SPEC)], [found()], SPEC)
