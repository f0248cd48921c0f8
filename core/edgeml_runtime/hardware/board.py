"""The hardware of this machine: CPU, its features as Linux names them, memory, installed runtimes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.manifest import ENGINES, Engine, Format
from edgeml_runtime import engines

_CPU_INFO: Final = Path("/proc/cpuinfo")
_MEMORY_INFO: Final = Path("/proc/meminfo")
#: The control groups of this process, and the folder of all groups of version 2.
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """One machine; `cpu` is its own name for the CPU, and `runtimes` has the version of each installed runtime."""

    arch: str
    cpu: str
    cpu_features: frozenset[str]
    memory_bytes: int
    runtimes: dict[Engine, str]

    @property
    def formats(self) -> frozenset[Format]:
        """The model formats that can run here."""
        return frozenset(file_format for file_format, engine in ENGINES.items() if engine in self.runtimes)


def this_machine() -> Board:
    """Describe the machine of this process."""
    cpu = _fields(_CPU_INFO)
    arch = platform.machine()
    return Board(
        arch=arch,
        cpu=cpu.get("model name") or cpu.get("Model") or arch,
        cpu_features=frozenset((cpu.get("flags") or cpu.get("Features") or "").split()),
        memory_bytes=_kibibytes("MemTotal"),
        runtimes=engines.installed(),
    )


def available_bytes() -> int:
    """Return the memory in bytes that a new process could take now without swapping, by the kernel's estimate."""
    return _kibibytes("MemAvailable")


def memory_max_bytes() -> int:
    """Return the memory in bytes that this process may take: that of the machine, or less in a container."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_group_limits()])


def _group_limits() -> Iterator[int]:
    """Yield the limits of this process's control group and of those around it; `max` is none."""
    own = _GROUPS / _fields(_OWN_GROUPS).get("0", "").removeprefix(":").lstrip("/")
    for folder in (own, *own.parents):
        try:
            text = (folder / "memory.max").read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            yield int(text)


def _kibibytes(field: str) -> int:
    amount = _fields(_MEMORY_INFO).get(field, "0 kB").split()[0]
    return int(amount) * 1024


def _fields(path: Path) -> dict[str, str]:
    """Read a file of `name : value` lines; of a repeated name, the first value."""
    fields: dict[str, str] = {}
    try:
        text = path.read_text()
    except OSError:
        return fields
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields
