"""A detector's mean average precision on labelled pictures, paired with fp32, with an interval for the drop.

A box counts where it shares half of its union with a labelled box. Average precision of a label is the mean precision
at 101 recalls, as in COCO's evaluation, over the 100 most certain boxes of each picture.

Source: Lin et al., Microsoft COCO (2014), and its evaluation's recalls and order of matching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgeml.check import expected_labels
from edgeml.check.data import LabelledBox, Row
from edgeml_core.card import Accuracy, ClassAccuracy
from edgeml_core.errors import UsageError
from edgeml_runtime.postprocess import detection
from edgeml_runtime.tasks import Answer, Found
from edgeml_runtime.tensors import Array

METRIC: Final = "mean average precision at IoU 0.5"
#: Pictures; fewer have no spread for an interval.
ROWS_MIN: Final = 2
#: Boxes of a picture, the most certain ones, as in COCO's evaluation.
BOXES_MAX: Final = 100
#: Resamplings of the pictures; the interval's ends then settle within a hundredth of its width.
DRAWS: Final = 1000
_RECALLS: Final = np.linspace(0, 1, 101)
_DECIMALS: Final = 6
_HINT: Final = (
    'give each picture its "boxes": [{"label": "...", "box": [xmin, ymin, xmax, ymax]}], [] where it has none'
)


@dataclass(frozen=True, kw_only=True)
class _Class:
    """One model's boxes of one label, the most certain first: the picture of each, and whether it was right."""

    pictures: Array
    right: Array


def measure(
    fp32: Sequence[Answer], int8: Sequence[Answer], rows: Sequence[Row], labels: Sequence[str], *, seed: int = 0
) -> Accuracy:
    """Measure the mean average precision of fp32 and int8 over the labels that the pictures have.

    The interval is from resampling the pictures with replacement, the same for both models.

    Args:
        fp32: the original's answers with all boxes, down to a threshold of 0.
        int8: the candidate's, likewise.
        rows: pictures with their boxes.
        labels: the model's.
        seed: of the resampling.

    Raises:
        UsageError: `data-invalid`, when there are too few pictures, none has an object, or one has no boxes given or a
            label that the model doesn't have.
    """
    labelled = [list(_labelled(row, labels)) for row in rows]
    named = sorted({label for boxes in labelled for label, _ in boxes})
    if len(rows) < ROWS_MIN or not named:
        raise UsageError(
            "data-invalid",
            f"{len(rows)} picture(s) with {len(named)} label(s); at least {ROWS_MIN} and 1 are needed",
            _HINT,
        )
    counts = {label: np.array([sum(it == label for it, _ in boxes) for boxes in labelled]) for label in named}
    judged = [{label: _judge(answers, labelled, label) for label in named} for answers in (fp32, int8)]

    def precisions(weights: Array) -> Array:
        """Compute both models' precision for each label; NaN for a label that no picture has."""
        return np.array([[_average(model[it], counts[it], weights) for it in named] for model in judged])

    before, after = precisions(np.ones(len(rows)))
    low, high = _interval(precisions, len(rows), np.random.default_rng(seed))
    return Accuracy(
        metric=METRIC,
        rows=len(rows),
        fp32=round(float(before.mean()), _DECIMALS),
        int8=round(float(after.mean()), _DECIMALS),
        drop=round(float(before.mean() - after.mean()), _DECIMALS),
        ci95=(round(low, _DECIMALS), round(high, _DECIMALS)),
        classes=tuple(
            ClassAccuracy(
                label=label,
                rows=int(counts[label].sum()),
                fp32=round(float(one), _DECIMALS),
                int8=round(float(other), _DECIMALS),
            )
            for label, one, other in sorted(
                zip(named, before, after, strict=True), key=lambda it: (it[2] - it[1], it[0])
            )
        ),
    )


def _interval(precisions: Callable[[Array], Array], pictures: int, drawn: np.random.Generator) -> tuple[float, float]:
    drops = []
    for _ in range(DRAWS):
        weights = np.bincount(drawn.integers(pictures, size=pictures), minlength=pictures)
        before, after = precisions(weights)
        if not np.isnan(before).all():
            drops.append(np.nanmean(before) - np.nanmean(after))
    low, high = np.quantile(drops, (0.025, 0.975))
    return float(low), float(high)


def _labelled(row: Row, labels: Sequence[str]) -> Iterator[tuple[str, Array]]:
    """Yield the label and box of each object in a picture."""
    if not isinstance(row.label, tuple):
        raise UsageError("data-invalid", "a picture has no boxes", _HINT)
    for sought in row.label:
        yield expected_labels.find(sought.label, labels), _corners(sought)


def _corners(sought: LabelledBox) -> Array:
    left, top, right, bottom = sought.box
    if not (left < right and top < bottom):
        raise UsageError("data-invalid", f"box {list(sought.box)} has no area", "give xmin, ymin, xmax, ymax in pixels")
    return np.array(sought.box, dtype=np.float64)


def _judge(answers: Sequence[Answer], labelled: Sequence[Sequence[tuple[str, Array]]], label: str) -> _Class:
    scores, pictures, right = [], [], []
    for picture, (answer, boxes) in enumerate(zip(answers, labelled, strict=True)):
        given: Mapping[str, Any] = answer
        found: list[Found] = [it for it in given["boxes"][:BOXES_MAX] if it["label"] == label]
        scores += [it["score"] for it in found]
        pictures += [picture] * len(found)
        right += detection.match([detection.edges(it) for it in found], [box for it, box in boxes if it == label])
    order = np.argsort(-np.array(scores, dtype=np.float64), kind="stable")
    return _Class(pictures=np.array(pictures, dtype=np.int64)[order], right=np.array(right, dtype=bool)[order])


def _average(model: _Class, counts: Array, weights: Array) -> float:
    """Compute a label's average precision, each picture counting `weights` times; NaN where none has it."""
    objects = float((counts * weights).sum())
    if not objects:
        return float("nan")
    each = weights[model.pictures]
    right, all_found = np.cumsum(each * model.right), np.cumsum(each)
    precision = np.maximum.accumulate((right / np.maximum(all_found, 1))[::-1])[::-1]
    at = np.searchsorted(right / objects, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
