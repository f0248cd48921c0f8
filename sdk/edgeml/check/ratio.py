"""A ratio of two sums over rows, with an interval: rows are independent of each other, the parts of one row are not."""

from __future__ import annotations

import math

from edgeml_runtime.tensors import Array


def ratio(parts: Array, counts: Array, *, z95: float) -> tuple[float, float]:
    """Compute the sum of `parts` over that of `counts`.

    Args:
        parts: float [rows], two rows or more.
        counts: float or int [rows], not all zero.
        z95: standard deviations of a 95 % interval.

    Returns:
        The ratio, and half the width of its normal interval.

    Source: Cochran, Sampling Techniques (1977), 2.11: the variance of a ratio estimate.
    """
    rows, count = len(counts), float(counts.sum())
    found = float(parts.sum()) / count
    return found, z95 * math.sqrt(float(((parts - found * counts) ** 2).sum()) * rows / (rows - 1)) / count
