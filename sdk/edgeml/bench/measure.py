"""A bundle benched on this machine: unpacked, run in a process of its own on one of its golden inputs.

There is no other place than this machine: an emulator's time is not speed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from edgeml.bench.trial import Job, Trial
from edgeml.check import latency
from edgeml.check.latency import Timed
from edgeml_core import golden
from edgeml_core.errors import UsageError
from edgeml_core.golden import GoldenCase
from edgeml_core.manifest import Engine
from edgeml_runtime import engines
from edgeml_runtime.unpacked import Unpacked, unpacked

BUDGET_S: Final = 3.0
#: Half of what the process is given in all: slow models overrun, since each has its fewest runs.
BUDGET_MAX_S: Final = latency.TIMEOUT_S / 2


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, of what, where and how.

    Args:
        case: the golden case whose input was run; `input_shapes` are its tensors'.
    """

    manifest_sha256: str
    on: Literal["local"]
    cpu: str
    engine: Engine
    engine_version: str
    threads: int
    case: int
    input_shapes: dict[str, tuple[int, ...]]
    trial: Trial


def measure(bundle: Path, *, case: int = 1, threads: int | None = None, budget_s: float = BUDGET_S) -> Bench:
    """Bench a bundle.

    Args:
        case: which golden case's input is run, from 1: export times the first.
        threads: instead of the manifest's number; never more than the cores that this process may use.
        budget_s: how long to run it after the warm-up.

    Raises:
        UsageError: `usage`, for a case or a time that there isn't.
        RejectedError: the bundle is malformed or damaged.
        DeviceError: `runtime-missing` or `runtime-failed`.
    """
    if not 0 < budget_s <= BUDGET_MAX_S:
        raise UsageError("usage", f"{budget_s} s is not within 0 and {BUDGET_MAX_S:.0f}", "for example --seconds 3")
    with unpacked(bundle) as opened:
        runtime = opened.manifest.runtime
        engines.require(runtime)
        chosen = _case(opened, case)
        count = max(1, min(threads or runtime.threads, len(os.sched_getaffinity(0))))
        model = opened.folder / opened.manifest.model
        timed = Timed(path=str(model), manifest=opened.manifest, inputs=chosen.inputs)
        job = Job(timed=timed, threads=count, budget_s=budget_s)
        return Bench(
            manifest_sha256=opened.manifest_sha256,
            on="local",
            cpu=latency.cpu_name(),
            engine=runtime.engine,
            engine_version=engines.installed()[runtime.engine],
            threads=count,
            case=case,
            input_shapes={name: tensor.shape for name, tensor in chosen.inputs.items()},
            trial=latency.apart("edgeml.bench.trial", job, Trial),
        )


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


def require_here(on: str) -> None:
    """Check that `on` is this machine.

    Raises:
        UsageError: `usage`, for any other place, with the way to get its figures.
    """
    if on == "local":
        return
    if on == "emulated":
        message = "a bench can't be emulated: an emulator's time says nothing of the board's speed"
    else:
        message = f"a bench runs on this machine only, not on {on!r}"
    raise UsageError("usage", message, "copy the bundle to the board and run `edgeml bench BUNDLE` there")


def _case(opened: Unpacked, number: int) -> GoldenCase:
    cases = golden.decode((opened.folder / opened.manifest.golden.path).read_bytes())
    if not 1 <= number <= len(cases):
        raise UsageError("usage", f"the bundle has no golden case {number}", f"name one from 1 to {len(cases)}")
    return cases[number - 1]
