"""Delays between attempts: doubled up to a bound, with jitter, so that the devices of a fleet don't return together."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Final

_RANDOM: Final = secrets.SystemRandom()


def jittered(seconds: float) -> float:
    """Return between half and one and a half times `seconds`."""
    return seconds * _RANDOM.uniform(0.5, 1.5)


def delays(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield delays in seconds without end, each about twice the one before."""
    delay_s = first_s
    while True:
        yield jittered(delay_s)
        delay_s = min(2 * delay_s, longest_s)
