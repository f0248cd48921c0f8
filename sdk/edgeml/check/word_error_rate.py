"""A recognizer's word error rate on labelled sounds, paired sound by sound with fp32, with an interval for its rise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeml.check.data import Row
from edgeml.check.ratio import ratio
from edgeml_core.card import WORD_ERROR_RATE, Accuracy
from edgeml_core.errors import UsageError
from edgeml_runtime.postprocess.speech import word_errors
from edgeml_runtime.tasks import Answer
from edgeml_runtime.tensors import Array

#: Sounds; fewer have no spread for an interval.
ROWS_MIN: Final = 2
_DECIMALS: Final = 6
_HINT: Final = "give each sound its text as the label"


def measure(fp32: Sequence[Answer], int8: Sequence[Answer], rows: Sequence[Row], *, z95: float) -> Accuracy:
    """Measure the word error rate of fp32 and int8 over all words of the labels, and by how much it rises.

    Words are compared without regard to case. The interval counts two more sounds, of which one gains half an error and
    one loses it. So zero observed differences don't give an interval of zero width.

    Args:
        fp32: the original's answers, one for each sound.
        int8: the candidate's answers.
        rows: sounds with their texts.
        z95: standard deviations of a 95 % interval.

    Raises:
        UsageError: `data-invalid`, when there are too few sounds, a label is no text, or no label has a word.
    """
    expected = [_words(row.label) for row in rows]
    counts = np.array([len(words) for words in expected])
    if len(rows) < ROWS_MIN or not counts.sum():
        message = f"{len(rows)} sound(s) with {counts.sum()} word(s); at least {ROWS_MIN} and 1 are needed"
        raise UsageError("data-invalid", message, _HINT)
    before, after = (_errors(answers, expected) for answers in (fp32, int8))
    words = float(counts.sum())
    further = np.full(2, counts.mean())
    middle, spread = ratio(np.append(after - before, (0.5, -0.5)), np.append(counts, further), z95=z95)
    return Accuracy(
        metric=WORD_ERROR_RATE,
        rows=len(rows),
        fp32=round(float(before.sum()) / words, _DECIMALS),
        int8=round(float(after.sum()) / words, _DECIMALS),
        drop=round(float((after - before).sum()) / words, _DECIMALS),
        ci95=(round(middle - spread, _DECIMALS), round(middle + spread, _DECIMALS)),
    )


def _errors(answers: Sequence[Answer], expected: Sequence[Sequence[str]]) -> Array:
    """Count the word errors of each answer, int64 [sounds]."""
    given: Sequence[Mapping[str, Any]] = answers
    return np.array([word_errors(_words(it["text"]), words) for it, words in zip(given, expected, strict=True)])


def _words(text: object) -> list[str]:
    if not isinstance(text, str):
        raise UsageError("data-invalid", f"label {text!r} is not a text", _HINT)
    return text.lower().split()
