"""How a cost grows with the number of devices: a line through the measured sizes, and the exponent of a power law."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def line(costs: Mapping[int, float]) -> tuple[float, float]:
    """Fit `cost = fixed + each * devices` by least squares, and return `fixed` and `each`."""
    each, fixed = np.polyfit(list(costs), list(costs.values()), 1)
    return float(fixed), float(each)


def exponent(costs: Mapping[int, float]) -> float:
    """Fit `cost = c * devices ** exponent`, for costs above zero: below 1 the cost grows slower than the fleet."""
    slope, _ = np.polyfit(np.log(list(costs)), np.log(list(costs.values())), 1)
    return float(slope)
