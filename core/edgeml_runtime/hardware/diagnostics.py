"""Diagnostics that host and device share: Python, CPU, runtimes, memory, disk, clock.

Each check reads one fact and changes nothing. A child process imports the runtimes, since one built for another CPU
kills the process that imports it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edgeml_core.calls import Check
from edgeml_core.manifest import Engine
from edgeml_runtime import engines
from edgeml_runtime.hardware import board

#: The oldest Python with the syntax and library that edgeml uses.
PYTHON_MIN: Final = (3, 11)
#: Bytes of memory and of disk for a small model, with its runtime and the version before it.
MEMORY_MIN_BYTES: Final = 128 * 1024**2
DISK_MIN_BYTES: Final = 256 * 1024**2
#: Seconds for one import of a runtime; a slow board reads it from a cold SD card.
IMPORT_TIMEOUT_S: Final = 60
#: The time of this release; an earlier clock is wrong.
CLOCK_FLOOR: Final = datetime(2026, 11, 1, tzinfo=UTC)
#: CPU features that int8 kernels use, as Linux names them.
NOTABLE_FEATURES: Final = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
_MIB: Final = 1024**2
_ADAPTERS: Final[dict[Engine, str]] = {
    "onnxruntime": "edgeml_runtime.engines.ort",
    "litert": "edgeml_runtime.engines.litert",
}


def machine() -> Iterator[Check]:
    """Run all checks that need no settings."""
    this = board.this_machine()
    yield python(sys.version_info[:3])
    yield cpu(this.arch, this.cpu_features)
    yield from (engine(name) for name in _ADAPTERS)
    yield memory(board.available_bytes())
    yield clock(datetime.now(UTC))


def python(version: tuple[int, int, int]) -> Check:
    """Check that this Python is recent enough."""
    detail = ".".join(map(str, version))
    if version < PYTHON_MIN:
        return Check("python", "failed", detail, "install Python {}.{} or newer".format(*PYTHON_MIN))
    return Check("python", "ok", detail)


def cpu(arch: str, features: frozenset[str]) -> Check:
    """Check that bundles exist for this CPU, and list its features that int8 uses."""
    detail = " ".join([arch, *(name for name in NOTABLE_FEATURES if name in features)])
    if arch not in {"aarch64", "x86_64"}:
        return Check("cpu", "failed", detail, "use a 64-bit system: bundles are made for aarch64 and x86_64")
    if arch == "x86_64" and features and "avx2" not in features:
        return Check("cpu", "warning", detail, "int8 is slow without AVX2: take a newer machine if you can")
    return Check("cpu", "ok", detail)


def engine(name: Engine) -> Check:
    """Check that a runtime is installed and that its wheel suits this CPU, by an import in a child process."""
    install = f"pip install --upgrade 'edgeml-deploy[{engines.EXTRAS[name]}]'"
    version = engines.installed().get(name)
    if version is None and name == "litert":
        return Check(name, "ok", f"not installed; only .tflite bundles need it: {install}")
    if version is None:
        return Check(name, "failed", "not installed", install)
    problem = python_problem(f"import {_ADAPTERS[name]}")
    if problem is None:
        return Check(name, "ok", version)
    return Check(name, "failed", f"{version} {problem}", f"install a version built for this CPU, or: {install}")


def memory(available_bytes: int) -> Check:
    """Check that a small model fits into the available memory."""
    detail = f"{available_bytes // _MIB} MiB available"
    if available_bytes < MEMORY_MIN_BYTES:
        return Check("memory", "warning", detail, f"free memory up to {MEMORY_MIN_BYTES // _MIB} MiB, or add zram")
    return Check("memory", "ok", detail)


def disk(folder: Path) -> Check:
    """Check the free space at `folder`, or at its nearest parent that exists."""
    absolute = folder.absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    detail = f"{free_bytes // _MIB} MiB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Check(
            "disk", "failed", f"{existing} can't be written", "take another folder, or run as this one's owner"
        )
    if free_bytes < DISK_MIN_BYTES:
        return Check(
            "disk", "warning", detail, f"free space up to {DISK_MIN_BYTES // _MIB} MiB, or take another folder"
        )
    return Check("disk", "ok", detail)


def clock(now: datetime) -> Check:
    """Check that the clock is not before this release; signatures expire by it."""
    detail = now.isoformat(timespec="seconds")
    if now < CLOCK_FLOOR:
        return Check("clock", "warning", f"{detail} is in the past", "set the clock, or turn on NTP: timedatectl")
    return Check("clock", "ok", detail)


def python_problem(code: str) -> str | None:
    """Run Python code in a child process and describe its failure; None when it succeeds."""
    try:
        command = [sys.executable, "-P", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"doesn't end within {IMPORT_TIMEOUT_S} s"
    if done.returncode == -signal.SIGILL:
        return "uses an instruction that this CPU lacks"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ends with code {done.returncode}"]
        return f"fails: {lines[-1]}"
    return None
