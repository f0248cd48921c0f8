"""From a detector's outputs to the objects in a picture: labels, scores and boxes in the picture's own pixels.

Boxes that overlap are all given: the models of this kind are trained to find each object once. Here, too, is when two
boxes are of one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from edgeml_core.errors import RejectedError
from edgeml_core.processing import Boxes
from edgeml_runtime.postprocess.classification import labelled, softmax
from edgeml_runtime.tasks import BoxesAnswer, Found, Picture, Row
from edgeml_runtime.tensors import Array

#: Two boxes are of one object when what both cover is so much of what either does (intersection over union).
IOU_MIN: Final = 0.5


def boxes(row: Row, spec: Boxes) -> BoxesAnswer:
    """The objects that the model is surer of than the threshold, the surest first.

    Source: transformers 4.57 `ObjectDetectionPipeline`, held equal by a test.
    """
    picture = row.about
    if not isinstance(picture, Picture):
        raise RejectedError("bundle-format", "boxes are asked of a model that takes no picture")
    scores = softmax(labelled(row.outputs[spec.logits], len(spec.labels) + 1, dimensions=2))[:, :-1]
    edges = np.array([picture.width, picture.height] * 2, dtype=np.float32)
    corners = _corners(row.outputs[spec.boxes]) * edges
    if len(corners) != len(scores):
        raise RejectedError("bundle-format", f"the model gives {len(corners)} boxes for {len(scores)} objects")
    best, surest = scores.argmax(axis=1), scores.max(axis=1)
    threshold = spec.threshold if picture.threshold is None else picture.threshold
    order = np.argsort(-surest, kind="stable")
    kept = order[surest[order] > threshold]
    return {"boxes": [_found(spec.labels[best[at]], float(surest[at]), corners[at]) for at in kept]}


def _corners(centred: Array) -> Array:
    """Left, top, right and bottom of boxes given by their middle, width and height."""
    if centred.ndim != 2 or centred.shape[1] != 4:
        raise RejectedError("bundle-format", f"the model's boxes have shape {list(centred.shape)}")
    middle, half = centred[:, :2], np.float32(0.5) * centred[:, 2:]
    return np.concatenate([middle - half, middle + half], axis=1)


def _found(label: str, score: float, corners: Array) -> Found:
    xmin, ymin, xmax, ymax = (int(edge) for edge in np.nan_to_num(corners))
    return {"label": label, "score": score, "box": {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}}


def edges(found: Found) -> Array:
    """Left, top, right and bottom of what was found."""
    box = found["box"]
    return np.array([box["xmin"], box["ymin"], box["xmax"], box["ymax"]], dtype=np.float64)


def matched(found: Sequence[Array], wanted: Sequence[Array]) -> list[bool]:
    """Whether each box found, the surest first, is that of an object that no surer one has found."""
    left = list(wanted)
    right = []
    for box in found:
        shares = [_overlap(box, other) for other in left]
        right.append(bool(shares) and max(shares) >= IOU_MIN)
        if right[-1]:
            del left[int(np.argmax(shares))]
    return right


def _overlap(one: Array, other: Array) -> float:
    """The share of two boxes' union that both have."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both) if both else 0.0
