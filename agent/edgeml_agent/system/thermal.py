"""How hot the CPU is, and whether it is slowed down for heat or power, where the board tells. Nothing is estimated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")
#: In the names of thermal zones that are the CPU's: `cpu-thermal`, `soc_thermal`, `x86_pkg_temp`.
_CPU_ZONES: Final = ("cpu", "soc", "pkg")
#: Frequency capped, throttled, or at the soft temperature limit: now, not ever since the start.
_SLOWED_BITS: Final = 0b1110


def celsius(sys: Path = SYS) -> float | None:
    """The hottest of the CPU's thermal zones; None where there is none."""
    zones = (zone for zone in sys.glob("class/thermal/thermal_zone*") if _is_of_cpu(zone))
    return max((value / 1000 for value in _numbers(zone / "temp" for zone in zones)), default=None)


def slowed(sys: Path = SYS) -> bool | None:
    """Whether the CPU is slowed down now; None where the firmware doesn't say.

    Source: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled, which Raspberry Pi's kernel shows
    as a file.
    """
    said = _numbers(sys.glob("devices/platform/soc*/soc*:firmware/get_throttled"), base=16)
    return next((bool(value & _SLOWED_BITS) for value in said), None)


def slowings(sys: Path = SYS) -> int | None:
    """How often x86's CPU cores were slowed down for heat since the start; None where they don't count."""
    counts = list(_numbers(sys.glob("devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")))
    return sum(counts) if counts else None


def _is_of_cpu(zone: Path) -> bool:
    try:
        kind = (zone / "type").read_text()
    except OSError:
        return False
    return any(name in kind for name in _CPU_ZONES)


def _numbers(paths: Iterator[Path], base: int = 10) -> Iterator[int]:
    """The numbers in those files that can be read now: a zone that sleeps can't."""
    for path in paths:
        try:
            yield int(path.read_text(), base)
        except (OSError, ValueError):
            continue
