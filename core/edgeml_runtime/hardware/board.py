"""The hardware of this machine: CPU, its features as Linux names them, memory, installed runtimes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgeml_core.manifest import ENGINES, Engine, Format
from edgeml_runtime import engines

_CPU_INFO: Final = Path("/proc/cpuinfo")
_MEMORY_INFO: Final = Path("/proc/meminfo")
#: The control groups of this process, and the folder of all groups.
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")


class _GroupFiles(NamedTuple):
    """The files of a group's memory, and what the names in its `memory.stat` begin with."""

    limit: str
    used: str
    prefix: str


#: By the name of the controller in a line of `_OWN_GROUPS`: version 2 has none, version 1 has a folder for each.
_GROUP_FILES: Final = {
    "": _GroupFiles("memory.max", "memory.current", ""),
    "memory": _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


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
        memory_bytes=memory_max_bytes(),
        runtimes=engines.installed(),
    )


def available_bytes() -> int:
    """Return the memory in bytes that a new process could take now without swapping: of the machine, or of a container.

    The kernel estimates the first. Of a container's limit it is what its processes don't use.
    """
    machine = int(_fields(_MEMORY_INFO).get("MemAvailable", "0 kB").split()[0]) * 1024
    return max(0, min([machine, *(limit - used for limit, used in _group_limits())]))


def memory_max_bytes() -> int:
    """Return the memory in bytes that this process may take: that of the machine, or less in a container."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *(limit for limit, _ in _group_limits())])


def _group_limits() -> Iterator[tuple[int, int]]:
    """Yield the limit and the use, in bytes, of this process's control group and of those around it with a limit.

    A limit counts the cache of files, too. The kernel frees it for a process that needs memory, so it is no use.
    """
    for line in _text(_OWN_GROUPS).splitlines():
        _, controller, path = line.split(":", 2)
        if (files := _GROUP_FILES.get(controller)) is None:
            continue
        own = _GROUPS / controller / path.lstrip("/")
        for folder in (own, *own.parents):
            if (limit := _text(folder / files.limit).strip()).isdigit():  # the word `max` is none
                stat = _fields(folder / "memory.stat", " ")
                cached = sum(int(stat.get(f"{files.prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
                yield int(limit), int(_text(folder / files.used) or 0) - cached


def _fields(path: Path, separator: str = ":") -> dict[str, str]:
    """Read a file of `name : value` lines; of a repeated name, the first value."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, found, value = line.partition(separator)
        if found:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _text(path: Path) -> str:
    """Read a file; one that can't be read is empty."""
    try:
        return path.read_text()
    except OSError:
        return ""
