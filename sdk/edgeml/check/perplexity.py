"""A language model's perplexity on whole texts, paired text by text with fp32, with an interval for its rise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeml.check.ratio import ratio
from edgeml_core.card import PERPLEXITY, Accuracy
from edgeml_core.errors import UsageError
from edgeml_runtime.tasks import Answer
from edgeml_runtime.tensors import Array

#: Texts; fewer have no spread for an interval.
ROWS_MIN: Final = 2
_DECIMALS: Final = 6
#: Largest exponent of e. A perplexity of 1e20 says as much as a larger one, which a float may not hold.
_EXPONENT_MAX: Final = 46.0
_HINT: Final = 'give two lines of {"text": "..."} or more'


def measure(fp32: Sequence[Answer], int8: Sequence[Answer], *, z95: float) -> Accuracy:
    """Measure the perplexity of fp32 and int8 over all tokens of the same texts, and the fraction by which it rises.

    The interval is the normal one of a ratio of sums: the loss of each text's log likelihood over its tokens. Texts
    are independent of each other; tokens of one text are not.

    Args:
        fp32: the original's answers, one for each text.
        int8: the candidate's answers.
        z95: standard deviations of a 95 % interval.

    Raises:
        UsageError: `data-invalid`, when there are too few texts.
    """
    before, tokens = _summed(fp32)
    after, _ = _summed(int8)
    if len(tokens) < ROWS_MIN:
        raise UsageError(
            "data-invalid", f"{len(tokens)} text(s); perplexity needs at least {ROWS_MIN} for an interval", _HINT
        )
    count = tokens.sum()
    rise, spread = ratio(before - after, tokens, z95=z95)
    return Accuracy(
        metric=PERPLEXITY,
        rows=len(tokens),
        fp32=_power(math.exp, -before.sum() / count),
        int8=_power(math.exp, -after.sum() / count),
        drop=_power(math.expm1, rise),
        ci95=(_power(math.expm1, rise - spread), _power(math.expm1, rise + spread)),
    )


def _power(of_e: Callable[[float], float], exponent: float) -> float:
    """Compute a power of e, rounded; NaN stays NaN."""
    return round(of_e(float(np.minimum(exponent, _EXPONENT_MAX))), _DECIMALS)


def _summed(answers: Sequence[Answer]) -> tuple[Array, Array]:
    """Collect each text's log likelihood and its number of tokens, as vectors of float64 and int64."""
    given: Sequence[Mapping[str, Any]] = answers
    return np.array([it["log_likelihood"] for it in given]), np.array([it["tokens"] for it in given])
