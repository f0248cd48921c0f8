"""A bundle run by a child process, be it here, emulated or on another machine: what comes of it, and how it ends.

A child, since a runtime made for another CPU kills the process that imports it. Proofs are judged here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from edgeml_core.card import How
from edgeml_core.errors import DeviceError, TransportError
from edgeml_core.manifest import Manifest
from edgeml_runtime.tasks import Answer
from edgeml_runtime.verify.child import Reply, encode
from edgeml_runtime.verify.golden import mismatch

#: Emulated, a large encoder takes seconds a row; a child that is silent for longer hangs.
TIMEOUT_S: Final = 1800.0
STDERR_SHOWN_CHARS: Final = 500
#: A shell or ssh gives a child's end by signal N as exit code 128 + N.
_SIGNAL_BASE: Final = 128
Kind = TypeVar("Kind", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a bundle did on a CPU, within its golden bounds.

    Args:
        cpu: the emulated core, or what the machine calls its own.
        how: whether that CPU was emulated, or its own machine was asked.
        runtime: the version of the runtime there.
        min_cosine: of any golden output to what was recorded.
        max_abs: the largest distance of any element of it.
        answers: to the items, in order.
    """

    cpu: str
    how: How = "emulated"
    runtime: str
    min_cosine: float
    max_abs: float
    answers: list[Answer]


@dataclass(frozen=True, kw_only=True)
class ExecutionSite:
    """Where a program of ours runs on a bundle.

    Args:
        name: of the emulated CPU, or of the machine that is asked.
        how: as the proof's.
        command: takes the request on its stdin.
        lost_code: the command's exit code when that machine can't be reached.
        hint: the remedy when no answer comes.
    """

    name: str
    how: How
    command: Sequence[str]
    timeout_s: float = TIMEOUT_S
    lost_code: int | None = None
    hint: str = "take another runtime version or another format: what crashes here would crash the device"


def python(program: str, *arguments: str) -> list[str]:
    """The command that runs a program of ours with this Python."""
    return [sys.executable, "-P", "-m", program, *arguments]


def prove(folder: Path, manifest: Manifest) -> Proof:
    """Reproduce a bundle's golden outputs on this machine; raises as `run` does."""
    place = ExecutionSite(
        name="this machine", how="measured", command=python("edgeml_runtime.verify.child", str(folder))
    )
    return run(place, manifest, encode(manifest, ()))


def run(place: ExecutionSite, manifest: Manifest, request: bytes) -> Proof:
    """Have a bundle proven there.

    Args:
        place: where.
        manifest: the bundle's; its golden bounds are what is judged by.
        request: as `edgeml_runtime.verify.child.encode` makes it, or as the place's command wants it wrapped.

    Raises:
        DeviceError: `golden-mismatch`; `runtime-failed` or `runtime-missing`; `probe-crashed`, when the child crashed,
            hung or gave no reply.
        TransportError: `host-unreachable`. UsageError: `input-invalid`, when an item isn't of the model's kind.
        RejectedError: `bundle-format`.
    """
    reply = ask(place, request, Reply)
    if reply.refused is not None:
        raise reply.refused.error(f"on {place.name}: ")
    for distance in reply.distances:
        if not distance.within(manifest.golden):
            raise mismatch(distance, where=place.name)
    return Proof(
        cpu=place.name if place.how == "emulated" else reply.cpu,
        how=place.how,
        runtime=reply.runtime,
        min_cosine=min(it.cosine for it in reply.distances),
        max_abs=max(it.max_abs for it in reply.distances),
        answers=list(reply.answers),
    )


def ask(place: ExecutionSite, request: bytes, kind: type[Kind]) -> Kind:
    """What the program of a place replies.

    Raises:
        DeviceError: `probe-crashed`, when it crashed, hung or gave no reply. TransportError: `host-unreachable`.
    """
    return _decoded(place, _child(place, request), kind)


def environment() -> dict[str, str]:
    """Ours, without what may hold credentials or change which code runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("EDGEML_", "PYTHON", "QEMU_"))}


def _child(place: ExecutionSite, request: bytes) -> tuple[int, bytes, bytes]:
    """The child's exit code, stdout and stderr; it and all that it started are gone then."""
    try:
        child = subprocess.Popen(
            place.command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise DeviceError("probe-crashed", f"the run on {place.name} couldn't start: {error}") from error
    try:
        output, errors = child.communicate(request, timeout=place.timeout_s)
    except subprocess.TimeoutExpired as error:
        raise _crashed(place, f"gave no answer within {place.timeout_s:.0f} s") from error
    finally:
        _end(child)
    return child.returncode, output, errors


def _end(child: subprocess.Popen[bytes]) -> None:
    """The child is the leader of its own group."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _decoded(place: ExecutionSite, ended: tuple[int, bytes, bytes], kind: type[Kind]) -> Kind:
    code, output, errors = ended
    if code == place.lost_code:
        last = errors.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:]
        raise TransportError("host-unreachable", f"{place.name} can't be reached: {last}", "try ssh to it by hand")
    if (number := -code if code < 0 else code - _SIGNAL_BASE) in set(signal.Signals):
        raise _crashed(place, f"was ended by {signal.Signals(number).name}")
    try:
        return msgspec.msgpack.decode(output, type=kind)
    except msgspec.MsgspecError as error:
        last = errors.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:]
        raise _crashed(place, f"ended with code {code} and no answer: {last}") from error


def _crashed(place: ExecutionSite, what: str) -> DeviceError:
    return DeviceError("probe-crashed", f"the run on {place.name} {what}", place.hint)
