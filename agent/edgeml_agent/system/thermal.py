"""The CPU's temperature, and whether heat or power throttles it, where the board reports them. Nothing is estimated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")
#: Parts of the names of the CPU's thermal zones: `cpu-thermal`, `soc_thermal`, `x86_pkg_temp`.
_CPU_ZONES: Final = ("cpu", "soc", "pkg")
#: Bits for frequency capped, throttled, or at the soft temperature limit: now, not ever since the start.
_THROTTLED_BITS: Final = 0b1110


def celsius(sys: Path = SYS) -> float | None:
    """Return the temperature of the hottest CPU zone in degrees Celsius; None without any."""
    zones = (zone for zone in sys.glob("class/thermal/thermal_zone*") if _is_of_cpu(zone))
    return max((value / 1000 for value in _numbers(zone / "temp" for zone in zones)), default=None)


def is_throttled(sys: Path = SYS) -> bool | None:
    """Return whether the CPU is throttled now; None if the firmware doesn't report it.

    Source: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled, which Raspberry Pi's kernel
    exposes as a file.
    """
    values = _numbers(sys.glob("devices/platform/soc*/soc*:firmware/get_throttled"), base=16)
    return next((bool(value & _THROTTLED_BITS) for value in values), None)


def throttle_count(sys: Path = SYS) -> int | None:
    """Return how many times x86's cores were throttled for heat since the start; None if they don't count."""
    counts = list(_numbers(sys.glob("devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")))
    return sum(counts) if counts else None


def _is_of_cpu(zone: Path) -> bool:
    try:
        kind = (zone / "type").read_text()
    except OSError:
        return False
    return any(name in kind for name in _CPU_ZONES)


def _numbers(paths: Iterator[Path], base: int = 10) -> Iterator[int]:
    """Yield the numbers in the files that can be read now; a sleeping zone can't."""
    for path in paths:
        try:
            yield int(path.read_text(), base)
        except (OSError, ValueError):
            continue
