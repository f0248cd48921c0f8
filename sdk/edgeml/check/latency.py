"""Latency of int8 against fp32 on this machine: interleaved, on the same threads, in a fresh process.

The figures are this CPU's and say so; they are never passed off as the board's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.card import Latency
from edgeml_core.errors import DeviceError
from edgeml_core.manifest import Manifest
from edgeml_runtime.bench.child import Timed
from edgeml_runtime.tensors import Array, to_data

TIMEOUT_S: Final = 600
_CPUINFO: Final = Path("/proc/cpuinfo")
_MODEL_NAME: Final = re.compile(r"^(?:model name|Model)\s*:\s*(.+)$", re.MULTILINE)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the stopwatch process is given."""

    int8: Timed
    fp32: Timed
    threads: int
    budget_s: float


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """What the stopwatch process answers."""

    int8: Latency
    fp32: Latency
    load_ms: float
    first_inference_ms: float
    peak_rss_bytes: int


def timed(path: Path, manifest: Manifest, inputs: Mapping[str, Array]) -> Timed:
    """A model to time on one input."""
    return Timed(path=str(path), manifest=manifest, inputs={name: to_data(array) for name, array in inputs.items()})


def measure(job: Job) -> Times:
    """Time both models in a process of their own, so that nothing that this one has loaded counts.

    Raises:
        DeviceError: `runtime-failed`, when the process fails or takes longer than `TIMEOUT_S`.
    """
    command = [sys.executable, "-m", "edgeml.check.latency_child"]
    try:
        ran = subprocess.run(
            command, input=msgspec.msgpack.encode(job), capture_output=True, timeout=TIMEOUT_S, check=True
        )
        return msgspec.json.decode(ran.stdout, type=Times)
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip()[-500:]
        raise DeviceError("runtime-failed", f"timing the model failed: {message}", "try the other format") from error
    except (subprocess.TimeoutExpired, OSError, msgspec.MsgspecError) as error:
        raise DeviceError("runtime-failed", f"timing the model failed: {error}", "try the other format") from error


def cpu_name() -> str:
    """This machine's CPU as it calls itself."""
    found = _MODEL_NAME.search(_CPUINFO.read_text()) if _CPUINFO.exists() else None
    return found[1].strip() if found else "unknown CPU"
