"""What the parts found, as one table with what was aimed at; and on which machine, and how busy that was."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgeml_runtime.bench import host_load

LOOK_S: Final = 0.5


class Row(NamedTuple):
    """One figure; `met` is None where nothing was aimed at."""

    what: str
    figure: str
    aim: str = ""
    met: bool | None = None


def least(what: str, found: float, aim: float, unit: str = "") -> Row:
    """A figure that should not be lower."""
    return Row(what, f"{found:.3g}{unit}", f">= {aim:g}{unit}", found >= aim)


def most(what: str, found: float, aim: float, unit: str = "") -> Row:
    """A figure that should not be higher."""
    return Row(what, f"{found:.3g}{unit}", f"<= {aim:g}{unit}", found <= aim)


def show(rows: Sequence[Row], other_cores: Sequence[float]) -> None:
    """Print them, with the machine's name."""
    width = max(len(row.what) for row in rows)
    print(f"\n{_cpu()}, {os.cpu_count()} cores, shared by servers and clients; {busy(other_cores)}")
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        print(f"  {row.what:{width}}  {row.figure:>10}  {row.aim:>10}  {verdict}".rstrip())


def look() -> list[float]:
    """How many cores are busy while nothing is measured: a list of one, or none where the system doesn't say."""
    before = host_load.counts()
    time.sleep(LOOK_S)
    cores, _ = host_load.others(before, host_load.counts())
    return [] if cores is None else [cores]


def busy(cores: Sequence[float]) -> str:
    """How many cores other programs kept busy, looked at while no server was asked."""
    if not cores:
        return "this system doesn't say how busy it was"
    doubt = (
        " (a busy machine: compare within this run only)"
        if statistics.median(cores) > host_load.OTHER_CORES_MAX
        else ""
    )
    return f"others kept {statistics.median(cores):.2f} cores busy, {max(cores):.2f} at most{doubt}"


def _cpu() -> str:
    try:
        return re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    except (OSError, IndexError):
        return platform.machine()
