"""The probe's child process: `python -m edgeml_agent.probe.child FOLDER [CALL]` tries a bundle and prints JSON.

It loads the model with the installed runtime, runs the golden inputs and compares; or benchmarks it, if a call requests
that. A model that crashes, hangs or takes all memory ends only this process. The kernel is set to choose it first when
memory runs out, and to end it with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec

from edgeml_agent.ports import Probed
from edgeml_agent.system import memory
from edgeml_core import golden, messages
from edgeml_core import manifest as manifests
from edgeml_core.calls import Call, Refused, Reply, Reproduced
from edgeml_core.errors import DeviceError, EdgemlError
from edgeml_core.manifest import MANIFEST_NAME
from edgeml_core.messages import Tuned
from edgeml_runtime import engines
from edgeml_runtime.bench import child
from edgeml_runtime.hardware import board
from edgeml_runtime.verify import golden as golden_check

#: Seconds after which the process ends itself, for a parent that was killed before prctl took effect.
ALARM_S: Final = 900
#: Linux's prctl option for the signal that comes when the parent dies.
_PR_SET_PDEATHSIG: Final = 1
#: Niceness of tuning and calls: at 10 a process gets a tenth of the CPU time of a serving one.
NICENESS: Final = 10
#: The highest oom_score_adj: the kernel ends this process first.
_CHOOSE_FIRST: Final = "1000"
#: The argument, in place of a call, that requests tuning.
TUNE: Final = "tune"


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The child's output; one field is set."""

    probed: Probed | None = None
    tuned: Tuned | None = None
    reply: Reply | None = None
    refused: Refused | None = None


def probe(folder: Path) -> Probed:
    """Run the golden inputs of the bundle whose manifest and files are in `folder`.

    Raises:
        RejectedError: `bundle-format`. DeviceError: `golden-mismatch`, `runtime-failed` or `runtime-missing`.
    """
    manifest = manifests.decode((folder / MANIFEST_NAME).read_bytes())
    cases = golden.decode((folder / manifest.golden.path).read_bytes())
    session = engines.load(folder / manifest.model, manifest)
    try:
        found = golden_check.check(session, manifest, cases)
    finally:
        session.close()
    return Probed(
        min_cosine=found.min_cosine,
        max_abs=found.max_abs,
        first_ms=found.first_ms,
        median_ms=found.median_ms,
        peak_rss_bytes=child.peak_rss_bytes(),
    )


def answer(folder: Path, call: Call) -> Reply:
    """Run a call on the bundle in `folder`. Errors are those of `probe`, and a UsageError for an absent case."""
    os.nice(NICENESS)
    manifest = manifests.decode((folder / MANIFEST_NAME).read_bytes())
    if call.kind == "bench":
        return msgspec.structs.replace(child.reply(child.of_bundle(folder, manifest, call.timing)), id=call.id)
    host, found = board.this_machine(), probe(folder)
    return Reply(
        id=call.id,
        cpu=host.cpu,
        runtime=host.runtimes.get(manifest.runtime.engine, ""),
        reproduced=Reproduced(min_cosine=found.min_cosine, max_abs=found.max_abs),
    )


def tune(folder: Path) -> Tuned:
    """Find the fastest way to run the bundle in `folder` on this host. Errors are those of `probe`."""
    from edgeml_agent.probe.autotune import Tuner  # noqa: PLC0415 - a probe doesn't need it

    os.nice(NICENESS)
    memory.return_large_blocks()
    return Tuner(folder, manifests.decode((folder / MANIFEST_NAME).read_bytes())).run()


def _lower_oom_priority() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(ALARM_S)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_CHOOSE_FIRST)


def main(arguments: list[str]) -> int:
    """Probe the bundle in a folder, tune it or run a call on it, and print the outcome."""
    _lower_oom_priority()
    folder, *call = arguments
    try:
        outcome = _outcome(Path(folder), *call)
    except EdgemlError as error:
        outcome = Outcome(refused=Refused.of(error))
    except OSError as error:
        outcome = Outcome(refused=Refused.of(DeviceError("store-failed", str(error), "check the disk")))
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    return 0 if outcome.refused is None else DeviceError.exit_code


def _outcome(folder: Path, call: str = "") -> Outcome:
    if call == TUNE:
        return Outcome(tuned=tune(folder))
    if call:
        return Outcome(reply=answer(folder, messages.decode(call.encode(), Call)))
    return Outcome(probed=probe(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
