"""The rate at which this machine's threads read memory: the bound of a language model, which reads its weights a token.

Numbers within the last-level cache say nothing of memory, so none are given for them.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from edgeml_runtime.tensors import Array

#: Bytes read, in last-level caches: of fewer, the caches hold a large part from one pass to the next.
CACHES_MIN: Final = 2
#: Bytes of the buffer, in last-level caches; more read no slower and take memory.
CACHES_MAX: Final = 4
#: Seconds for all passes. The fastest counts, since other load on the machine only slows them.
SECONDS: Final = 0.5
_CPUS: Final = Path("/sys/devices/system/cpu")
_UNITS: Final = {"K": 1024, "M": 1024**2, "G": 1024**3}


def cache_bytes(cpus: Path = _CPUS) -> int:
    """Sum the last-level caches of this process's cores; 0 where Linux doesn't name them.

    Args:
        cpus: the folder in which Linux describes the cores.
    """
    found: dict[str, int] = {}
    try:
        for core in os.sched_getaffinity(0):
            levels = {int(_text(it / "level")): it for it in (cpus / f"cpu{core}" / "cache").glob("index*")}
            last = levels[max(levels)]
            found[_text(last / "shared_cpu_list")] = _size(_text(last / "size"))
    except (OSError, ValueError):
        return 0
    return sum(found.values())


def measure(size_bytes: int, *, threads: int, seconds: float = SECONDS) -> int | None:
    """Measure how fast this many bytes are read again and again, in bytes per second.

    Args:
        size_bytes: read by a token.
        threads: that read at the same time.
        seconds: for all passes; there are two in any case.

    Returns:
        None where the caches hold a large part, or aren't known.
    """
    caches = cache_bytes()
    if not caches or size_bytes < CACHES_MIN * caches:
        return None
    return read_bytes_per_s(min(size_bytes, CACHES_MAX * caches), threads=threads, seconds=seconds)


def read_bytes_per_s(size_bytes: int, *, threads: int, seconds: float) -> int:
    """Read a buffer of this size in passes, each thread its own part, and return the rate of the fastest."""
    parts = np.array_split(np.empty(size_bytes // 4, np.int32), threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_fill, parts))  # pages that nothing wrote to are all the same one
        shortest = float("inf")
        until, passes = time.perf_counter() + seconds, 0
        while passes < 2 or time.perf_counter() < until:
            begun = time.perf_counter()
            list(pool.map(np.max, parts))
            shortest = min(shortest, time.perf_counter() - begun)
            passes += 1
    return int(sum(it.nbytes for it in parts) / shortest)


def _fill(part: Array) -> None:
    part.fill(1)


def _text(path: Path) -> str:
    return path.read_text().strip()


def _size(text: str) -> int:
    """Parse a size such as `32768K`.

    >>> _size("32768K")
    33554432
    """
    return int(text.rstrip("KMG")) * _UNITS.get(text[-1:], 1)
