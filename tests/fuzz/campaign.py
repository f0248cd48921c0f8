"""How many inputs a fuzz run has, where they go, and what came of them. Every random choice comes from the seed.

EDGEML_FUZZ_INPUTS=100000  in all; without it the few thousand that every test run affords
EDGEML_FUZZ_SEED=7         repeats a run's choices; each run prints its own
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from support.scale import scaled

SEED: Final = int(os.environ.get("EDGEML_FUZZ_SEED", "1"))
INPUTS: Final = int(os.environ.get("EDGEML_FUZZ_INPUTS", scaled(100_000, otherwise=3000)))
#: Percent of the inputs, and some more, since schemathesis makes as many as it finds fit. Those of the parsers cost
#: microseconds, those of a whole server milliseconds.
SHARES: Final = {"openapi": 6, "http": 20, "sockets": 5, "mqtt": 7, "parsers": 65}


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a process has."""

    resident_bytes: int
    threads: int
    files: int

    def __str__(self) -> str:
        return f"{self.resident_bytes / 2**20:.1f} MiB, {self.threads} threads, {self.files} open files"


@dataclass
class Part:
    """What came of one part's inputs; `slowest` is the slowest answer in seconds, and what it answered."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")

    def count(self, outcome: str, took_s: float, told: str) -> None:
        """One input more."""
        self.count_all(outcome, 1)
        self.slowest = max(self.slowest, (took_s, told))

    def count_all(self, outcome: str, inputs: int) -> None:
        """Several more, that were not timed one by one."""
        self.inputs += inputs
        self.outcomes[outcome] += inputs


PARTS: Final[dict[str, Part]] = {}
#: Of the server, after it was warmed up and at the latest look.
SIZES: Final[dict[str, Size]] = {}
#: The same of other processes' servers, as lines.
_OTHER_SIZES: Final[list[str]] = []


def part(name: str) -> Part:
    """The counts of a part."""
    return PARTS.setdefault(name, Part())


def inputs(name: str) -> int:
    """How many inputs a part has."""
    return INPUTS * SHARES[name] // 100


def dump() -> dict[str, object]:
    """Return the counts of this process as plain values, for the process that prints them."""
    parts = {name: (it.inputs, dict(it.outcomes), it.slowest) for name, it in PARTS.items()}
    return {"parts": parts, "sizes": [f"the server {when}: {size}" for when, size in SIZES.items()]}


def merge(counts: Mapping[str, Any]) -> None:
    """Add the counts of another process."""
    for name, (number, outcomes, slowest) in counts.get("parts", {}).items():
        it = part(name)
        it.inputs += number
        it.outcomes.update(outcomes)
        it.slowest = max(it.slowest, tuple(slowest))
    _OTHER_SIZES.extend(counts.get("sizes", ()))


def summary() -> list[str]:
    """Return the counts as lines."""
    if not PARTS:
        return []
    lines = [f"fuzz run of {INPUTS} inputs, seed {SEED}"]
    lines += [
        f"{it.inputs:8} {name}: slowest {it.slowest[0] * 1000:.0f} ms ({it.slowest[1]}); "
        + ", ".join(f"{count} x {outcome}" for outcome, count in sorted(it.outcomes.items()))
        for name, it in PARTS.items()
    ]
    lines.append(f"{sum(it.inputs for it in PARTS.values()):8} in all")
    return lines + [f"the server {when}: {size}" for when, size in SIZES.items()] + _OTHER_SIZES
