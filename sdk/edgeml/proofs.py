"""A proof: a bundle's golden outputs and answers from another CPU, by a child process that runs `edgeml_runtime.proof`.

The child may be emulated (`edgeml.emulation`) or on another machine (`edgeml.remote`). What it says is judged here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from edgeml_core.card import How
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError, UsageError
from edgeml_core.manifest import Manifest
from edgeml_runtime import proof
from edgeml_runtime.golden import mismatch
from edgeml_runtime.proof import Refused, Reply
from edgeml_runtime.tasks import Answer, Item

#: Emulated, a large encoder takes seconds a row; a child that is silent for longer hangs.
TIMEOUT_S: Final = 1800.0
STDERR_SHOWN_CHARS: Final = 500
#: A shell or ssh gives a child's end by signal N as exit code 128 + N.
_SIGNAL_BASE: Final = 128
_FAMILIES: Final[dict[str, type[EdgemlError]]] = {kind.__name__: kind for kind in (UsageError, RejectedError)}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a bundle did on another CPU, within its golden bounds.

    Args:
        cpu: the core's name.
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
class Place:
    """Where a proof runs: the CPU's name, and the command whose stdin takes the request."""

    cpu: str
    how: How
    command: Sequence[str]
    timeout_s: float = TIMEOUT_S


def run(place: Place, manifest: Manifest, items: Sequence[Item]) -> Proof:
    """Have the bundle proven there.

    Raises:
        DeviceError: `golden-mismatch`; `runtime-failed` or `runtime-missing`; `probe-crashed`, when the child crashed,
            hung or gave no reply.
        UsageError: `input-invalid`, when an item isn't of the model's kind. RejectedError: `bundle-format`.
    """
    code, output, errors = _child(place, proof.encode(manifest, items))
    reply = _decoded(place, code, output, errors)
    if reply.refused is not None:
        raise _error(reply.refused, place)
    for distance in reply.distances:
        if not distance.within(manifest.golden):
            raise mismatch(distance, where=place.cpu)
    return Proof(
        cpu=place.cpu,
        how=place.how,
        runtime=reply.runtime,
        min_cosine=min(it.cosine for it in reply.distances),
        max_abs=max(it.max_abs for it in reply.distances),
        answers=list(reply.answers),
    )


def environment() -> dict[str, str]:
    """Ours, without what may hold credentials or change which code runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("EDGEML_", "PYTHON", "QEMU_"))}


def _child(place: Place, request: bytes) -> tuple[int, bytes, bytes]:
    """The child's exit code, stdout and stderr; it and all that it started are gone then."""
    try:
        child = subprocess.Popen(
            place.command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise DeviceError("probe-crashed", f"the proof on {place.cpu} couldn't start: {error}") from error
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


def _decoded(place: Place, code: int, output: bytes, errors: bytes) -> Reply:
    if (number := -code if code < 0 else code - _SIGNAL_BASE) in set(signal.Signals):
        raise _crashed(place, f"was ended by {signal.Signals(number).name}")
    try:
        return msgspec.msgpack.decode(output, type=Reply)
    except msgspec.MsgspecError as error:
        last = errors.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:]
        raise _crashed(place, f"ended with code {code} and no answer: {last}") from error


def _crashed(place: Place, what: str) -> DeviceError:
    hint = "take another runtime version or another format: what the card doesn't show as proven may crash the device"
    return DeviceError("probe-crashed", f"the proof on {place.cpu} {what}", hint)


def _error(refused: Refused, place: Place) -> EdgemlError:
    kind = _FAMILIES.get(refused.family, DeviceError)
    return kind(refused.code, f"on {place.cpu}: {refused.message}", refused.hint)
