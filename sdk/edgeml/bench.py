"""Benchmarks of a bundle: its speed, memory and energy on one golden input, in a process of its own.

The same program measures everywhere, `edgeml_runtime.bench.child`: on this machine, by ssh, or on a device of a fleet.
An emulated CPU is refused, because an emulator's time is no measure of speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edgeml import child_process
from edgeml.verify import DEVICE, EMULATED, LOCAL, ssh
from edgeml.verify.ssh import RemoteTask
from edgeml_core import calls
from edgeml_core.calls import BenchmarkResult, Reply, Timing
from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Engine
from edgeml_runtime.bench import child
from edgeml_runtime.bench.child import Job
from edgeml_runtime.unpack import unpacked

if TYPE_CHECKING:
    from edgeml.fleet.call import DeviceConnection

#: The program that measures.
PROGRAM: Final = "edgeml_runtime.bench.child"


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle's result, with the machine, the runtime and the input that it belongs to.

    Args:
        on: where it ran, as requested.
        case: the golden case whose input was run, from 1.
        input_shapes: of that input's tensors, by name.
    """

    manifest_sha256: str
    on: str
    cpu: str
    engine: Engine
    engine_version: str
    threads: int
    case: int
    input_shapes: dict[str, tuple[int, ...]]
    result: BenchmarkResult


def measure(bundle: Path, on: str = LOCAL, *, timing: Timing, connection: DeviceConnection | None = None) -> Benchmark:
    """Benchmark a bundle.

    Args:
        bundle: a `.edgeml` file.
        on: `local`, `ssh://HOST` or `device:ID`.
        timing: the golden case, the threads and the time.
        connection: to the broker of a device's fleet.

    Raises:
        UsageError: `usage`, when `on` or the golden case doesn't exist.
        RejectedError: the bundle is malformed or damaged.
        TransportError: `host-unreachable`; the broker, or the device, can't be reached.
        DeviceError: `probe-crashed`, `runtime-missing` or `runtime-failed`; any error that a device replies.
    """
    _check_real(on)
    with unpacked(bundle) as opened:
        job = child.of_bundle(opened.folder, opened.manifest, timing)
        if on.startswith(DEVICE):
            from edgeml.verify import device  # noqa: PLC0415 - MQTT is an extra of its own

            reply = device.request(on, connection, kind="bench", manifest_sha256=opened.manifest_sha256, timing=timing)
        else:
            reply = run_here(job) if on == LOCAL else _run_by_ssh(opened.folder, job, on)
        return Benchmark(
            manifest_sha256=opened.manifest_sha256,
            on=on,
            cpu=reply.cpu,
            engine=opened.manifest.runtime.engine,
            engine_version=reply.runtime,
            threads=reply.threads,
            case=timing.case,
            input_shapes={name: tensor.shape for name, tensor in job.model.inputs.items()},
            result=result(reply, on),
        )


def run_here(job: Job) -> Reply:
    """Run a job in a child process on this machine.

    Raises:
        DeviceError: `probe-crashed`.
    """
    return child_process.run(child_process.here(PROGRAM, timeout_s=calls.TIMEOUT_S), msgspec.msgpack.encode(job), Reply)


def result(reply: Reply, on: str = LOCAL) -> BenchmarkResult:
    """Take the result from a reply.

    Raises:
        EdgemlError: the error in the reply.
        RejectedError: `document-format`, when the reply has neither result nor error.
    """
    if reply.refused is not None:
        raise reply.refused.error("" if on == LOCAL else f"on {on}: ")
    if reply.benchmark is None:
        raise RejectedError("document-format", f"the reply from {on} has no figures")
    return reply.benchmark


def to_dict(benchmark: Benchmark) -> dict[str, object]:
    """Build the object that `edgeml bench --json` prints: figures on its first level, beside their origin."""
    fields: dict[str, object] = msgspec.to_builtins(benchmark)
    figures = benchmark.result
    del fields["result"]
    return {
        **fields,
        **msgspec.to_builtins(figures),
        "host": {"quiet": figures.host.quiet, **msgspec.to_builtins(figures.host)},
    }


def _run_by_ssh(folder: Path, job: Job, on: str) -> Reply:
    manifest = job.model.manifest
    model = msgspec.structs.replace(job.model, path=f"{ssh.FOLDER}/{manifest.model}")
    request = msgspec.msgpack.encode(msgspec.structs.replace(job, model=model))
    return ssh.run(on, RemoteTask(folder=folder, manifest=manifest, program=PROGRAM, request=request), Reply)


def _check_real(on: str) -> None:
    if on == EMULATED:
        message = "a benchmark can't be emulated: an emulator's time is no measure of the board's speed"
        raise UsageError("usage", message, "name the board itself: --on ssh://HOST or --on device:ID")
