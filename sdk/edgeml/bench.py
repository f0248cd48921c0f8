"""A bundle benched: run on one of its golden inputs, in a process of its own, here, by ssh or on a device of a fleet.

The same program everywhere (`edgeml_runtime.bench.child`). Never emulated: an emulator's time is not speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeml.verify import DEVICE, EMULATED, LOCAL, ssh
from edgeml.verify import child as verify_child
from edgeml.verify.child import ExecutionSite
from edgeml.verify.ssh import RemoteTask
from edgeml_core import calls
from edgeml_core.calls import Reply, Timing, Trial
from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Engine
from edgeml_runtime.bench import child as bench_child
from edgeml_runtime.bench.child import Job
from edgeml_runtime.unpack import unpacked

if TYPE_CHECKING:
    from edgeml.fleet.call import DeviceConnection


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, of what, where and how.

    Args:
        case: the golden case whose input was run; `input_shapes` are its tensors'.
    """

    manifest_sha256: str
    on: str
    cpu: str
    engine: Engine
    engine_version: str
    threads: int
    case: int
    input_shapes: dict[str, tuple[int, ...]]
    trial: Trial


def measure(bundle: Path, on: str = LOCAL, *, timing: Timing, line: DeviceConnection | None = None) -> Bench:
    """Bench a bundle.

    Args:
        bundle: a `.edgeml` file.
        on: `local`, `ssh://HOST` or `device:ID`.
        timing: how.
        line: the way to a device's fleet.

    Raises:
        UsageError: `usage`, for a place or a golden case that there isn't.
        RejectedError: the bundle is malformed or damaged.
        TransportError: `host-unreachable`; the broker, or the device, can't be reached.
        DeviceError: `probe-crashed`, `runtime-missing` or `runtime-failed`; what a device says besides.
    """
    _require_real(on)
    with unpacked(bundle) as opened:
        job = bench_child.of_bundle(opened.folder, opened.manifest, timing)
        if on.startswith(DEVICE):
            from edgeml.verify import device  # noqa: PLC0415 - MQTT is an extra of its own

            reply = device.ask(on, line, kind="bench", manifest_sha256=opened.manifest_sha256, timing=timing)
        else:
            reply = here(job) if on == LOCAL else _by_ssh(opened.folder, job, on)
        return Bench(
            manifest_sha256=opened.manifest_sha256,
            on=on,
            cpu=reply.cpu,
            engine=opened.manifest.runtime.engine,
            engine_version=reply.runtime,
            threads=reply.threads,
            case=timing.case,
            input_shapes={name: tensor.shape for name, tensor in job.timed.inputs.items()},
            trial=figures(reply, on),
        )


def here(job: Job) -> Reply:
    """What comes of a job on this machine.

    Raises:
        DeviceError: `probe-crashed`.
    """
    command = verify_child.python("edgeml_runtime.bench.child")
    place = ExecutionSite(name="this machine", how="measured", command=command, timeout_s=calls.TIMEOUT_S)
    return verify_child.ask(place, msgspec.msgpack.encode(job), Reply)


def figures(reply: Reply, on: str = LOCAL) -> Trial:
    """What was measured.

    Raises:
        EdgemlError: the one that came instead. RejectedError: `document-format`, when nothing came.
    """
    if reply.refused is not None:
        raise reply.refused.error("" if on == LOCAL else f"on {on}: ")
    if reply.trial is None:
        raise RejectedError("document-format", f"the reply from {on} holds no figures")
    return reply.trial


def to_dict(bench: Bench) -> dict[str, object]:
    """The answer of `edgeml bench --json`: the trial's figures beside where they come from."""
    given: dict[str, object] = msgspec.to_builtins(bench)
    trial = bench.trial
    del given["trial"]
    return {
        **given,
        **msgspec.to_builtins(trial),
        "host": {"quiet": trial.host.quiet, **msgspec.to_builtins(trial.host)},
    }


def _by_ssh(folder: Path, job: Job, on: str) -> Reply:
    timed = job.timed
    there = msgspec.structs.replace(timed, path=f"{ssh.FOLDER}/{timed.manifest.model}")
    request = msgspec.msgpack.encode(msgspec.structs.replace(job, timed=there))
    errand = RemoteTask(folder=folder, manifest=timed.manifest, program="edgeml_runtime.bench.child", request=request)
    return ssh.ask(on, errand, Reply)


def _require_real(on: str) -> None:
    if on == EMULATED:
        message = "a bench can't be emulated: an emulator's time says nothing of the board's speed"
        raise UsageError("usage", message, "take the board itself: --on ssh://HOST or --on device:ID")
