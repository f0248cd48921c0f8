"""How busy the host was during a benchmark: CPU time of other processes and guests, as Linux counts it.

Figures from a busy host are still reported, with a sentence on each doubt beside them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.calls import HostLoad

#: Cores that other processes may keep busy during a benchmark; a quiet Linux needs less.
OTHER_CORES_MAX: Final = 0.15
#: Fraction of the CPU time that the hypervisor may give to other guests; more shows in the 99th percentile.
STEAL_MAX: Final = 0.01
#: Distance of the second half's median from the first half's, as a fraction of it; a throttled CPU passes it.
DRIFT_MAX: Final = 0.05
#: Distance of the 75th percentile from the 25th, as a fraction of the median; a busy host passes it.
SPREAD_MAX: Final = 0.20
STAT: Final = Path("/proc/stat")
_IDLE, _IOWAIT, _STEAL, _COUNTED = 3, 4, 7, 8
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds since the start of the system: all, busy and stolen ones, and this process's own."""

    total_s: float
    busy_s: float
    steal_s: float
    own_s: float


def counts(stat: Path = STAT) -> Counts | None:
    """Read the counts now; None where the system doesn't keep them."""
    try:
        ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1 : _COUNTED + 1]]
    except (OSError, ValueError):
        return None
    if len(ticks) < _COUNTED:
        return None
    idle = ticks[_IDLE] + ticks[_IOWAIT]
    return Counts(
        total_s=sum(ticks) / _TICKS_PER_S,
        busy_s=(sum(ticks) - idle - ticks[_STEAL]) / _TICKS_PER_S,
        steal_s=ticks[_STEAL] / _TICKS_PER_S,
        own_s=time.process_time(),
    )


def assess(before: Counts | None, after: Counts | None, times_ms: Sequence[float]) -> HostLoad:
    """Report the host's load between two counts.

    Args:
        times_ms: the times of all runs between the counts, in order.
    """
    drift, spread = _drift(times_ms), _spread(times_ms)
    other_cores, steal = others(before, after)
    doubts = []
    if other_cores is not None and other_cores > OTHER_CORES_MAX:
        doubts.append(f"other processes kept {other_cores:.2f} cores busy (more than {OTHER_CORES_MAX})")
    if steal is not None and steal > STEAL_MAX:
        doubts.append(f"the hypervisor took {steal:.1%} of the CPU time (more than {STEAL_MAX:.0%})")
    if abs(drift) > DRIFT_MAX:
        doubts.append(f"the second half's median is {drift:+.1%} off the first's (more than {DRIFT_MAX:.0%})")
    if spread > SPREAD_MAX:
        doubts.append(f"the quartiles lie {spread:.1%} of the median apart (more than {SPREAD_MAX:.0%})")
    return HostLoad(other_cores=other_cores, steal=steal, drift=drift, spread=spread, doubts=tuple(doubts))


def others(before: Counts | None, after: Counts | None) -> tuple[float | None, float | None]:
    """Return the cores that other processes kept busy between two counts, and the fraction that the hypervisor took."""
    if before is None or after is None or after.total_s <= before.total_s:
        return None, None
    total_s = after.total_s - before.total_s
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    elapsed_s = total_s / (os.cpu_count() or 1)
    return round(max(0.0, others_s / elapsed_s), 3), round((after.steal_s - before.steal_s) / total_s, 4)


def _drift(times_ms: Sequence[float]) -> float:
    half = len(times_ms) // 2
    first, second = statistics.median(times_ms[:half]), statistics.median(times_ms[half:])
    return round(second / first - 1, 4)


def _spread(times_ms: Sequence[float]) -> float:
    low, median, high = statistics.quantiles(times_ms, n=4)
    return round((high - low) / median, 4)
