"""The host: its CPU and memory, the versions of the libraries, and how busy other programs kept it.

The tree of processes below this one is the benchmark; the CPU time of all others is load.
A process of the tree counts after its end too, because its parent has waited for it.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from edgeml_runtime.bench import host_load
from harness.figures import HostLoad

#: CPU features that int8 kernels choose by: VNNI and AMX on x86, dot products and 8-bit matrices on Arm.
FEATURES: Final = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
#: Packages whose version may change a figure.
PACKAGES: Final = (
    *("edgeml", "edgeml-deploy", "torch", "transformers", "onnx", "onnxruntime", "optimum", "optimum-onnx"),
    *("ai-edge-litert", "litert-torch", "ai-edge-quantizer", "numpy", "uvicorn", "httptools", "aiomqtt", "zstandard"),
)
#: Programs whose version may change a figure, each with the option that prints it.
PROGRAMS: Final = {"mosquitto": "-h", "wrk": "-v", "zstd": "--version"}
_CPUINFO: Final = Path("/proc/cpuinfo")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
#: /proc/PID/stat after the name: user and system time of the process, and of the children that it waited for.
_TIMES: Final = slice(11, 15)
_PARENT: Final = 1


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The host as the report names it; memory is in bytes."""

    cpu: str
    features: tuple[str, ...] = ()
    cores: int = 0
    memory_bytes: int = 0
    system: str = ""

    @property
    def label(self) -> str:
        """The name of a column of figures: the CPU, and its best feature for int8."""
        names = {"amx_int8": "AMX", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "i8mm": "I8MM"}
        best = next((name for feature, name in names.items() if feature in self.features), "")
        return f"{self.cpu}, {best}" if best else self.cpu


def machine() -> Machine:
    """Describe this host."""
    text = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    return Machine(
        cpu=name[1].strip() if name else platform.machine(),
        features=tuple(it for it in FEATURES if it in flags),
        cores=os.cpu_count() or 0,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
    )


def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages and of the programs that are installed here."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    paths = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    for program, option in PROGRAMS.items():
        try:
            ran = subprocess.run(
                [program, option], capture_output=True, text=True, check=False, env=os.environ | {"PATH": paths}
            )
        except FileNotFoundError:
            continue
        version = re.search(r"\d+\.\d+(\.\d+)?", ran.stdout + ran.stderr)
        found[program] = version[0] if version else "unknown"
    return found


class Watch:
    """The load that other programs put on the host, over one or more rounds."""

    def __init__(self) -> None:
        self._rounds: list[tuple[float, float]] = []
        self._before = _counts()

    def lap(self) -> None:
        """End a round and begin the next."""
        after = _counts()
        other_cores, steal = host_load.others(self._before, after)
        if other_cores is not None and steal is not None:
            self._rounds.append((other_cores, steal))
        self._before = after

    def skip(self) -> None:
        """Begin the round now: the work since the last one was no measurement."""
        self._before = _counts()

    @property
    def load(self) -> HostLoad:
        """The load over the rounds so far."""
        if not self._rounds:
            return HostLoad()
        cores, steals = zip(*self._rounds, strict=True)
        return HostLoad(
            other_cores=round(statistics.mean(cores), 3),
            other_cores_max=max(cores),
            steal=round(statistics.mean(steals), 4),
        )


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch the host for the time of a block; the block's end closes the last round."""
    watch = Watch()
    yield watch
    watch.lap()


def of_rounds(other_cores: Sequence[float]) -> HostLoad:
    """Return the load over rounds whose other busy cores were counted elsewhere."""
    if not other_cores:
        return HostLoad()
    return HostLoad(other_cores=round(statistics.mean(other_cores), 3), other_cores_max=max(other_cores))


def _counts() -> host_load.Counts | None:
    counts = host_load.counts()
    return counts and msgspec.structs.replace(counts, own_s=_tree_cpu_s())


def _tree_cpu_s() -> float:
    """Return the CPU seconds of this process and of all below it, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has ended, and its parent has its time
        pid = int(path.parent.name)
        parents[pid] = int(fields[_PARENT])
        ticks[pid] = sum(map(int, fields[_TIMES]))
    own = {os.getpid()}
    while new := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= new
    return sum(ticks.get(pid, 0) for pid in own) / _TICKS_PER_S
