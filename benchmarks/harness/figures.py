"""The values that a benchmark returns. Values only: nothing here measures, prints or reads a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from edgeml_runtime.bench.host_load import OTHER_CORES_MAX, STEAL_MAX

T = TypeVar("T")


class HostLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The work of other programs on the host while a figure was measured.

    Attributes:
        other_cores: cores that processes outside the benchmark kept busy, on average; None where it is not known.
        other_cores_max: the same in the busiest round.
        steal: fraction of the CPU time that the hypervisor gave to other guests; None where it is not known.
    """

    other_cores: float | None = None
    other_cores_max: float | None = None
    steal: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the host was too busy for its times to be compared with another run's."""
        return (self.other_cores or 0) > OTHER_CORES_MAX or (self.steal or 0) > STEAL_MAX

    def __str__(self) -> str:
        """Give the cores in words for a table's cell."""
        if self.other_cores is None:
            return "not recorded"
        steal = f", {self.steal:.0%} stolen" if (self.steal or 0) > STEAL_MAX else ""
        most = "" if self.other_cores_max is None else f" (most {self.other_cores_max:.2f})"
        return f"{self.other_cores:.2f} cores{most}{steal}{': BUSY' if self.is_busy else ''}"


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """The bound that a figure should keep, in the figure's unit."""

    kind: Literal["least", "most"]
    bound: float

    def is_met(self, value: float) -> bool:
        """Check a figure's value."""
        return value >= self.bound if self.kind == "least" else value <= self.bound


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="figure"):
    """One measured value.

    Attributes:
        name: the same in every run and on every machine; it holds no version and no measured value.
        value: the measured value; for a ratio, the median of the ratios round by round.
        unit: the value's unit; `x` for a ratio.
        sides: the values of all that were compared, by name, in `sides_unit`.
        host: the load of the host while this figure was measured.
        aim: the bound that the value should keep, if there is one.
        note: one phrase on how the value came about, such as its number of rounds.
    """

    name: str
    value: float
    unit: str = ""
    sides: Mapping[str, float] = {}
    sides_unit: str = ""
    host: HostLoad = HostLoad()
    aim: Aim | None = None
    note: str = ""


class Omission(msgspec.Struct, frozen=True, kw_only=True, tag="omission"):
    """A comparison that this run left out, and why."""

    name: str
    reason: str


Outcome = Figure | Omission


@dataclass(frozen=True, kw_only=True)
class Run:
    """The settings of one run of a program.

    Attributes:
        folder: an empty folder for the files of this run.
        models: a folder whose models are reused by later parts and programs.
        is_quick: whether each part runs for seconds, with small models, to show that it works.
        parts: the names of the parts to run.
    """

    folder: Path
    models: Path
    is_quick: bool
    parts: tuple[str, ...]

    def size(self, full: T, quick: T) -> T:
        """Return the settings of a part for this kind of run."""
        return quick if self.is_quick else full


def least(bound: float) -> Aim:
    """Return the aim of a value that should not be lower."""
    return Aim(kind="least", bound=bound)


def most(bound: float) -> Aim:
    """Return the aim of a value that should not be higher."""
    return Aim(kind="most", bound=bound)


def without_aims(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Drop the aims: they are set for full-size models on a quiet host."""
    return [msgspec.structs.replace(it, aim=None) if isinstance(it, Figure) else it for it in outcomes]


def number(value: float) -> str:
    """Write a value for people: three digits, but five of a cosine near 1, and all of a whole number."""
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.5f}".rstrip("0") if 0.9 <= value < 1 else f"{value:.3g}"
