"""Energy from RAPL, the counters in the CPU, where Linux lets this process read them. Nothing is estimated.

A counter covers the whole CPU package, with idle power and other processes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.card import Energy

POWERCAP: Final = Path("/sys/class/powercap")
#: Names of whole packages; `intel-rapl:0:0` is a part of one. Linux names AMD's CPUs so, too.
_PACKAGE: Final = re.compile(r"intel-rapl:\d+")
_MICRO: Final = 1e-6


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of all packages at one time.

    Attributes:
        packages: by name, the counter and the value at which it wraps around, in microjoules.
        missing: why there are no counters.
    """

    packages: dict[str, tuple[int, int]] = {}
    missing: str = ""


def read(powercap: Path = POWERCAP) -> Reading:
    """Read the counters now."""
    try:
        found = [path for path in sorted(powercap.iterdir()) if _PACKAGE.fullmatch(path.name)]
        packages = {path.name: (_number(path / "energy_uj"), _number(path / "max_energy_range_uj")) for path in found}
    except FileNotFoundError:
        return Reading(missing="this machine has no RAPL counters in /sys/class/powercap")
    except PermissionError:
        return Reading(missing="the RAPL counters can be read by root only")
    except (OSError, ValueError) as error:
        return Reading(missing=f"the RAPL counters can't be read: {error}")
    return Reading(packages=packages, missing="" if packages else "no CPU package has a RAPL counter")


def between(before: Reading, after: Reading, runs: int) -> Energy:
    """Compute the energy of each of `runs` inferences between two readings."""
    missing = before.missing or after.missing
    if missing or before.packages.keys() != after.packages.keys():
        return Energy(joules_per_inference=None, note=missing or "the RAPL counters changed meanwhile")
    used_uj = sum(_difference_uj(*before.packages[name], after.packages[name][0]) for name in before.packages)
    if not used_uj:
        return Energy(joules_per_inference=None, note="the RAPL counters stand still, as in a virtual machine")
    note = f"RAPL, {len(before.packages)} whole CPU package(s), idle power included"
    return Energy(joules_per_inference=round(used_uj * _MICRO / runs, 6), note=note)


def _difference_uj(before: int, range_uj: int, after: int) -> int:
    return after - before if after >= before else after - before + range_uj


def _number(path: Path) -> int:
    return int(path.read_text())
