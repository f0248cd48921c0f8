"""Objects in a picture, from a detector's outputs: labels, scores and boxes in the picture's own pixels.

Overlapping boxes all stay, since models of this kind are trained to find each object once. This module also matches
the boxes of two answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from edgeml_core.errors import RejectedError
from edgeml_core.processing import Boxes
from edgeml_runtime.postprocess.classification import check_labels, softmax
from edgeml_runtime.tasks import BoxesAnswer, Found, Picture, Row
from edgeml_runtime.tensors import Array

#: Intersection over union from which two boxes are of one object. Source: the Pascal VOC benchmark's criterion.
IOU_MIN: Final = 0.5


def boxes(row: Row, spec: Boxes) -> BoxesAnswer:
    """List the objects whose score is above the threshold, the highest score first.

    Args:
        row: `spec.logits` is float [objects, labels + 1], the last one for "no object"; `spec.boxes` is
            float [objects, 4]: centre, width and height as fractions of the picture.
        spec: names the outputs, the labels and the threshold.

    Raises:
        RejectedError: `bundle-format`, when the outputs have other shapes, or the model takes no picture.

    Source: transformers 4.57 `ObjectDetectionPipeline`, held equal by a test.
    """
    picture = row.about
    if not isinstance(picture, Picture):
        raise RejectedError("bundle-format", "the postprocessing is for boxes, but the model takes no picture")
    scores = softmax(check_labels(row.outputs[spec.logits], len(spec.labels) + 1, dimensions=2))[:, :-1]
    size = np.array([picture.width, picture.height] * 2, dtype=np.float32)
    corners = _corners(row.outputs[spec.boxes]) * size
    if len(corners) != len(scores):
        raise RejectedError("bundle-format", f"the model gives {len(corners)} boxes for {len(scores)} objects")
    labels, highest = scores.argmax(axis=1), scores.max(axis=1)
    threshold = spec.threshold if picture.threshold is None else picture.threshold
    order = np.argsort(-highest, kind="stable")
    kept = order[highest[order] > threshold]
    return {"boxes": [_found(spec.labels[labels[at]], float(highest[at]), corners[at]) for at in kept]}


def _corners(boxes: Array) -> Array:
    """Convert boxes, float [boxes, 4], from centre, width and height to left, top, right and bottom."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RejectedError("bundle-format", f"the model's boxes have shape {list(boxes.shape)}")
    centre, half = boxes[:, :2], np.float32(0.5) * boxes[:, 2:]
    return np.concatenate([centre - half, centre + half], axis=1)


def _found(label: str, score: float, corners: Array) -> Found:
    xmin, ymin, xmax, ymax = (int(edge) for edge in np.nan_to_num(corners))
    return {"label": label, "score": score, "box": {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}}


def edges(found: Found) -> Array:
    """Return an object's box as float64 [4]: left, top, right and bottom in pixels."""
    box = found["box"]
    return np.array([box["xmin"], box["ymin"], box["xmax"], box["ymax"]], dtype=np.float64)


def match(found: Sequence[Array], expected: Sequence[Array]) -> list[bool]:
    """Match boxes to expected ones, each of which matches once.

    Args:
        found: float [4] each, left, top, right and bottom, the highest score first.
        expected: as `found`, in any order.

    Returns:
        For each box found, whether it matches a box that none before it matches.
    """
    left = list(expected)
    matches = []
    for box in found:
        overlaps = [_overlap(box, other) for other in left]
        matches.append(bool(overlaps) and max(overlaps) >= IOU_MIN)
        if matches[-1]:
            del left[int(np.argmax(overlaps))]
    return matches


def _overlap(one: Array, other: Array) -> float:
    """Compute the intersection of two boxes as a fraction of their union."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both) if both else 0.0
