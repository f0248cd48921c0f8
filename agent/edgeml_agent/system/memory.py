"""This process's memory: how much it holds, and giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from pathlib import Path
from typing import Final

_ROLLUP: Final = Path("/proc/self/smaps_rollup")
_ANONYMOUS: Final = re.compile(r"^Anonymous:\s+(\d+) kB$", re.MULTILINE)
_STATM: Final = Path("/proc/self/statm")


#: Larger blocks go back to the system as soon as they are freed. glibc raises its own bound, 128 KiB, to 32 MiB by and
#: by; a model's weights are freed in such blocks once they are packed, and would stay.
LARGE_BLOCK_BYTES: Final = 256 * 1024
#: Of glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks() -> None:
    """Let freed blocks from `LARGE_BLOCK_BYTES` on go back to the system at once; without glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def release() -> None:
    """Collect garbage and return freed pages to the system; on systems without glibc only the former.

    Without it a process keeps every swapped model's pages: 163 MB against 555 after 12 swaps of a 100 MB model.
    """
    gc.unfreeze()
    gc.collect()
    # What is alive now mostly stays: the collector needn't look at it with every few requests.
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def resident_bytes() -> int | None:
    """The resident memory of this process in bytes; None where Linux's /proc isn't."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def anonymous_bytes() -> int:
    """The memory of this process that no file backs, in bytes; 0 where Linux doesn't tell (before 4.14)."""
    try:
        found = _ANONYMOUS.search(_ROLLUP.read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
