"""Latency of int8 against fp32 on this machine: interleaved, on the same threads, in a fresh process.

Of a language model it is the time of one token behind a prompt, and beside it that of a long prompt.

The figures name this machine's CPU. They are never given as the board's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from edgeml import child_process
from edgeml_core.calls import Refused
from edgeml_core.card import Latency, MemoryBound, Prefill
from edgeml_core.errors import DeviceError
from edgeml_core.manifest import Manifest
from edgeml_runtime.bench.child import TimedModel
from edgeml_runtime.tensors import Array, to_data

TIMEOUT_S: Final = 600
PROGRAM: Final = "edgeml.check.latency_child"
_CPUINFO: Final = Path("/proc/cpuinfo")
_MODEL_NAME: Final = re.compile(r"^(?:model name|Model)\s*:\s*(.+)$", re.MULTILINE)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The request to the latency child. `weight_bytes` are those that a language model reads for each token."""

    int8: TimedModel
    fp32: TimedModel
    threads: int
    budget_s: float
    weight_bytes: int = 0


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """The times of both models, in the latency child. Language models have those of a long prompt, too.

    `memory` is left out where caches hold much of the weights.
    """

    int8: Latency
    fp32: Latency
    load_ms: float
    first_inference_ms: float
    peak_rss_bytes: int
    prefill: Prefill | None = None
    memory: MemoryBound | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The latency child's reply: the times, or the error that came instead."""

    times: Times | None = None
    refused: Refused | None = None


def timed(path: Path, manifest: Manifest, inputs: Mapping[str, Array]) -> TimedModel:
    """Describe a model to time on one input.

    Args:
        path: the model file.
        manifest: names its runtime.
        inputs: tensors by name, as the model takes them.
    """
    return TimedModel(
        path=str(path), manifest=manifest, inputs={name: to_data(array) for name, array in inputs.items()}
    )


def measure(job: Job) -> Times:
    """Time both models in a process of their own, without the memory that this process has loaded.

    Raises:
        DeviceError: `runtime-failed`, when the process fails or takes longer than `TIMEOUT_S`.
    """
    site = child_process.here(PROGRAM, timeout_s=TIMEOUT_S)
    try:
        reply = child_process.run(site, msgspec.msgpack.encode(job), Reply)
    except DeviceError as error:
        raise _failed(error.message) from error
    if reply.times is None:
        raise _failed(reply.refused.message if reply.refused else "the reply is empty")
    return reply.times


def _failed(cause: str) -> DeviceError:
    return DeviceError("runtime-failed", f"timing the model failed: {cause}", "try the other format")


def cpu_name() -> str:
    """Read the name of this machine's CPU."""
    found = _MODEL_NAME.search(_CPUINFO.read_text()) if _CPUINFO.exists() else None
    return found[1].strip() if found else "unknown CPU"
