"""The fault campaign's seed, its length and its counts. Every random choice of a scenario comes from the seed.

EDGEML_FAULTS_SEED=7       repeats a run's choices; each run prints its own
EDGEML_FAULTS_SECONDS=600  is how long the scenarios without an end of their own run
"""

from __future__ import annotations

import os
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np

SEED: Final = int(os.environ.get("EDGEML_FAULTS_SEED", "1"))
SECONDS: Final = float(os.environ.get("EDGEML_FAULTS_SECONDS", "0"))

#: Violations that must stay 0; they are printed even so.
INVARIANTS: Final = (
    "wrong bytes activated",
    "devices without a serving model",
    "requests lost",
    "devices that didn't converge",
)
COUNTS: Final[Counter[str]] = Counter()


def chance(scenario: str) -> np.random.Generator:
    """Return the random choices of one scenario: the same for the same seed, in any order of tests."""
    return np.random.default_rng([SEED, zlib.crc32(scenario.encode())])


def count(what: str, times: int = 1) -> None:
    """Count something for the summary."""
    COUNTS[what] += times


def check_invariant(what: str, is_kept: object, detail: str) -> None:
    """Count a check of an invariant; a violation also fails the test."""
    COUNTS[what] += not is_kept
    COUNTS[f"checks: {what}"] += 1
    assert is_kept, f"{what}: {detail}"


def ends_at_s() -> float:
    """Return when a scenario without an end of its own stops, by the monotonic clock."""
    return time.monotonic() + SECONDS


def dump() -> dict[str, int]:
    """Return the counts of this process, for the process that prints them."""
    return dict(COUNTS)


def merge(counts: Mapping[str, int]) -> None:
    """Add the counts of another process."""
    COUNTS.update(counts)


def summary() -> list[str]:
    """Return the counts as lines: faults made, then the invariants, each with the number of its checks."""
    if not COUNTS:
        return []
    done = [f"{COUNTS[what]:8} {what}" for what in sorted(COUNTS) if what not in INVARIANTS and ":" not in what]
    kept = [f"{COUNTS[what]:8} {what}, in {COUNTS[f'checks: {what}']} checks" for what in INVARIANTS]
    return [f"fault campaign, seed {SEED}", *done, *kept]
