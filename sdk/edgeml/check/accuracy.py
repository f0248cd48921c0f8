"""The task metric on labelled rows, paired row by row with fp32, with an interval for the drop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeml.check import expected_labels, mean_average_precision, perplexity, word_error_rate
from edgeml.check.data import Row
from edgeml.check.predictions import vector
from edgeml_core.card import Accuracy, ClassAccuracy
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.processing import (
    Boxes,
    Classes,
    Decoded,
    Embedding,
    Generation,
    MaskFill,
    Span,
    TokenClasses,
    Transcript,
)
from edgeml_runtime.tasks import Answer, Text
from edgeml_runtime.tensors import Array

#: Standard deviations; quantile of the normal distribution for a 95 % interval.
_Z95: Final = 1.959964
_DECIMALS: Final = 6
#: Classes on the card; the rest lost less.
CLASSES_MAX: Final = 100
#: Rows whose neighbours are sought at once: 100,000 rows need 200 MB for it, and 80 GB at once.
_COMPARED_ROWS: Final = 256
_WORD_LABELS: Final = "give each row as many labels as its text has words"


def measure(fp32: Sequence[Answer], int8: Sequence[Answer], rows: Sequence[Row], manifest: Manifest) -> Accuracy:
    """Measure the accuracy of fp32 and int8 on the same rows.

    Classes: the best label is right. Token classes: each word's label, by its first token. Embeddings: the nearest
    other row has the same label. Masks: the likeliest token is the label. Spans: the words are those of the label.
    Tensors: the index of the largest output is right. Language models: perplexity, whose `drop` is the fraction by
    which it rises. Boxes: mean average precision.
    Transcripts and texts made of texts: word error rate, whose `drop` is its rise.

    Args:
        fp32: the original's answers, one for each row.
        int8: the candidate's answers.
        rows: with labels.
        manifest: the candidate's.

    Raises:
        UsageError: `data-invalid`, when rows have no label or one that the model doesn't have.
    """
    if isinstance(manifest.postprocess, Generation):
        return perplexity.measure(fp32, int8, z95=_Z95)
    if isinstance(manifest.postprocess, Transcript | Decoded):
        return word_error_rate.measure(fp32, int8, rows, z95=_Z95)
    if isinstance(manifest.postprocess, Boxes):
        return mean_average_precision.measure(fp32, int8, rows, manifest.postprocess.labels)
    verdicts = [list(_judge(answers, rows, manifest)) for answers in (fp32, int8)]
    before, after = (np.array([right for _, right in them], dtype=bool) for them in verdicts)
    drop = float(before.mean() - after.mean())
    return Accuracy(
        metric=_metric(manifest),
        rows=len(rows),
        fp32=round(float(before.mean()), _DECIMALS),
        int8=round(float(after.mean()), _DECIMALS),
        drop=round(drop, _DECIMALS),
        ci95=interval(lost=int((before & ~after).sum()), won=int((after & ~before).sum()), pairs=len(before)),
        classes=_classes([label for label, _ in verdicts[0]], before, after),
    )


def _classes(labels: Sequence[str], before: Array, after: Array) -> tuple[ClassAccuracy, ...]:
    """Measure the accuracy of each class, the one that lost most first."""
    found = []
    for label in sorted(set(labels)):
        own = np.array([it == label for it in labels])
        fp32, int8 = (round(float(right[own].mean()), _DECIMALS) for right in (before, after))
        found.append(ClassAccuracy(label=label, rows=int(own.sum()), fp32=fp32, int8=int8))
    return tuple(sorted(found, key=lambda it: (it.int8 - it.fp32, it.label))[:CLASSES_MAX])


def interval(*, lost: int, won: int, pairs: int) -> tuple[float, float]:
    """Compute the 95 % interval of a paired drop in accuracy.

    Wald's interval with half a pair added to each of the four cells. So zero observed differences don't give an
    interval of zero width.

    Args:
        lost: pairs that fp32 got right and int8 wrong.
        won: pairs that int8 got right and fp32 wrong.
        pairs: all pairs.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions (2005).
    """
    total, difference, discordant = pairs + 2, lost - won, lost + won + 1
    spread = _Z95 * math.sqrt(discordant - difference**2 / total) / total
    return round(difference / total - spread, _DECIMALS), round(difference / total + spread, _DECIMALS)


def check_drop(accuracy: Accuracy, max_drop: float) -> None:
    """Check that int8 loses no more than is accepted.

    Raises:
        GateFailed: `gate-failed`.
    """
    if not accuracy.drop <= max_drop:  # NaN is within no limit
        raise GateFailed(
            "gate-failed",
            f"{accuracy.metric} {_change(accuracy)} "
            f"(95 % interval {accuracy.ci95[0]:.2%} to {accuracy.ci95[1]:.2%}); {max_drop:.2%} is accepted",
            "calibrate on more rows, train adapters against the loss, or accept more with --max-drop",
        )


def _change(accuracy: Accuracy) -> str:
    if accuracy.is_fraction:
        return f"drops by {accuracy.drop:.2%}, from {accuracy.fp32:.2%} to {accuracy.int8:.2%}"
    return f"rises by {accuracy.drop:.2%}, from {accuracy.fp32:.2f} to {accuracy.int8:.2f}"


def doubt(accuracy: Accuracy, max_drop: float) -> str | None:
    """Warn of too few rows to rule out a larger drop than is accepted; None where there are enough."""
    if accuracy.ci95[1] <= max_drop:
        return None
    change = "drop" if accuracy.is_fraction else "rise"
    return f"{accuracy.rows} rows can't rule out a {change} of up to {accuracy.ci95[1]:.2%}; more rows would"


def _metric(manifest: Manifest) -> str:
    match manifest.postprocess:
        case TokenClasses():
            return "word accuracy"
        case Embedding():
            return "nearest-neighbour accuracy"
        case Span():
            return "exact match"
        case _:
            return "accuracy"


def _judge(answers: Sequence[Answer], rows: Sequence[Row], manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Yield each expected label, and whether the answer has it."""
    match manifest.postprocess:
        case Embedding():
            yield from _nearest(answers, rows, manifest)
        case TokenClasses(labels=labels):
            for answer, row in zip(answers, rows, strict=True):
                yield from _words(answer, row, labels)
        case _:
            for answer, row in zip(answers, rows, strict=True):
                yield _judge_one(answer, row, manifest)


def _judge_one(answer: Answer, row: Row, manifest: Manifest) -> tuple[str, bool]:
    scored: Mapping[str, Any] = answer
    match manifest.postprocess:
        case Classes(labels=labels):
            expected = expected_labels.find(row.label, labels)
            return expected, scored["labels"][0]["label"] == expected
        case Span():
            return "answer", _is_answer(answer, row)
        case MaskFill():
            return _filled(answer, row)
        case _:
            return str(row.label), int(vector(answer, manifest).argmax()) == row.label


def _filled(answer: Answer, row: Row) -> tuple[str, bool]:
    """Compare the likeliest token with the label, apart from white space around it."""
    if not isinstance(row.label, str):
        raise UsageError("data-invalid", f"label {row.label!r} is not a text", "give each row the word of its mask")
    given: Mapping[str, Any] = answer
    expected = row.label.strip()
    return expected, given["fills"][0]["token_str"].strip() == expected


def _is_answer(answer: Answer, row: Row) -> bool:
    """Compare the answer's words with those of the label, without regard to case. The card quotes neither."""
    if not isinstance(row.label, str):
        raise UsageError("data-invalid", f"label {row.label!r} is not a text", "give each question its answer's words")
    given: Mapping[str, Any] = answer
    found: str = given["answer"]
    return found.lower().split() == row.label.lower().split()


def _nearest(answers: Sequence[Answer], rows: Sequence[Row], manifest: Manifest) -> Iterator[tuple[str, bool]]:
    vectors = np.stack([vector(answer, manifest) for answer in answers])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(float).tiny)
    for start in range(0, len(rows), _COMPARED_ROWS):
        likeness = vectors[start : start + _COMPARED_ROWS] @ vectors.T
        likeness[np.arange(len(likeness)), np.arange(len(likeness)) + start] = -np.inf  # not the row itself
        for row, nearest in zip(rows[start:], likeness.argmax(axis=1), strict=False):
            yield str(row.label), row.label is not None and row.label == rows[int(nearest)].label


def _words(answer: Answer, row: Row, labels: Sequence[str]) -> Iterator[tuple[str, bool]]:
    text = row.item.text if isinstance(row.item, Text) else ""
    words = text.split()
    if not isinstance(row.label, list) or len(row.label) != len(words):
        raise UsageError("data-invalid", f"{len(words)} words don't have one label each", _WORD_LABELS)
    tokens: Mapping[str, Any] = answer
    found = dict(reversed([*_beginnings(tokens["tokens"], text)]))
    start = 0
    for word, label in zip(words, row.label, strict=True):
        start = text.index(word, start)
        own = next((found[at] for at in range(start, start + len(word)) if at in found), None)
        # A word beyond the model's length has no answer; one between two tokens without its own has a wrong one.
        if own is not None or min(found, default=start) < start < max(found, default=start):
            expected = expected_labels.find(label, labels)
            yield expected, own == expected
        start += len(word)


def _beginnings(tokens: Sequence[Mapping[str, Any]], text: str) -> Iterator[tuple[int, str]]:
    """Yield where the first letter of each token stands, and its label; tokens of SentencePiece begin with a space."""
    for token in tokens:
        piece = text[token["start"] : token["end"]]
        if piece.strip():
            yield token["start"] + len(piece) - len(piece.lstrip()), token["label"]
