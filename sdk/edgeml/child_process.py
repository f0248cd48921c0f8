"""Child processes of the host: one msgpack request on stdin, one msgpack reply on stdout, a bound on time.

A model may crash, hang or exhaust the memory of the process that loads it, so it runs in a child. Verification,
benchmarks and the gate's latencies all start their children here: on this machine, emulated, or by ssh. The programs
themselves are `edgeml_runtime.verify.child`, `edgeml_runtime.bench.child` and `edgeml.check.latency_child`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from edgeml_core.card import How
from edgeml_core.errors import DeviceError, TransportError

#: Seconds for one reply. An emulated large encoder takes seconds for each row; a child beyond this hangs.
TIMEOUT_S: Final = 1800.0
#: Characters of the child's stderr in a message; the cause stands at its end.
STDERR_SHOWN_CHARS: Final = 500
#: A shell, and ssh, report a child that ended by signal N with exit code 128 + N.
_SIGNAL_BASE: Final = 128
#: C++ and Python print these before they end for want of memory.
_OUT_OF_MEMORY: Final = ("MemoryError", "bad_alloc", "Cannot allocate memory")
_MEMORY_HINT: Final = "free memory there, or take a smaller model"
_CRASH_HINT: Final = "take another runtime version or another format: a crash here would crash the device"
Reply = TypeVar("Reply", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class ExecutionSite:
    """Where a program runs, and by which command.

    Attributes:
        name: of the emulated CPU or of the machine, for messages.
        how: whether that CPU is emulated or the machine's own.
        command: starts the program, which reads the request from its stdin.
        timeout_s: bound on the time until the reply, in seconds.
        lost_code: exit code of the command when the machine can't be reached.
        hint: the remedy when the program crashes.
    """

    name: str
    how: How = "measured"
    command: Sequence[str]
    timeout_s: float = TIMEOUT_S
    lost_code: int | None = None
    hint: str = _CRASH_HINT


def here(module: str, *arguments: str, timeout_s: float = TIMEOUT_S) -> ExecutionSite:
    """Describe a run of `python -m MODULE ARGUMENTS` on this machine."""
    return ExecutionSite(name="this machine", command=python(module, *arguments), timeout_s=timeout_s)


def python(module: str, *arguments: str) -> list[str]:
    """Build the command that runs a module with this Python."""
    return [sys.executable, "-P", "-m", module, *arguments]


def run(site: ExecutionSite, request: bytes, reply: type[Reply]) -> Reply:
    """Run a program and decode its reply.

    The child and all processes of its group have ended when this returns.

    Args:
        request: what the program reads from its stdin.
        reply: the type of its reply.

    Raises:
        DeviceError: `probe-crashed`, when the child crashed, ran out of memory, hung or gave no reply.
        TransportError: `host-unreachable`.
    """
    code, output, errors = _communicate(site, request)
    if code == site.lost_code:
        message = f"{site.name} can't be reached: {_last(errors)}"
        raise TransportError("host-unreachable", message, "connect to it with ssh by hand")
    if (number := -code if code < 0 else code - _SIGNAL_BASE) in set(signal.Signals):
        raise _ended_by_signal(site, signal.Signals(number), errors)
    try:
        return msgspec.msgpack.decode(output, type=reply)
    except msgspec.MsgspecError as error:
        what = f"ended with code {code} and no answer: {_last(errors)}"
        raise _crashed(site, what, is_out_of_memory=_names_memory(errors)) from error


def environment() -> dict[str, str]:
    """Copy this process's environment without secrets and without variables that change which code runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("EDGEML_", "PYTHON", "QEMU_"))}


def _communicate(site: ExecutionSite, request: bytes) -> tuple[int, bytes, bytes]:
    """Return the child's exit code, stdout and stderr."""
    try:
        child = subprocess.Popen(
            site.command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise DeviceError("probe-crashed", f"the run on {site.name} couldn't start: {error}", site.hint) from error
    try:
        output, errors = child.communicate(request, timeout=site.timeout_s)
    except subprocess.TimeoutExpired as error:
        raise _crashed(site, f"gave no answer within {site.timeout_s:.0f} s") from error
    finally:
        _kill_group(child)
    return child.returncode, output, errors


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the child, which leads its own process group, with everything that it started."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _ended_by_signal(site: ExecutionSite, number: signal.Signals, errors: bytes) -> DeviceError:
    """Report a signal. Nobody but the kernel sends SIGKILL here, and it does so when memory runs out."""
    is_killed = number == signal.SIGKILL
    why = "; the system was probably out of memory" if is_killed else ""
    return _crashed(site, f"was ended by {number.name}{why}", is_out_of_memory=is_killed or _names_memory(errors))


def _crashed(site: ExecutionSite, what: str, *, is_out_of_memory: bool = False) -> DeviceError:
    return DeviceError(
        "probe-crashed", f"the run on {site.name} {what}", _MEMORY_HINT if is_out_of_memory else site.hint
    )


def _names_memory(errors: bytes) -> bool:
    return any(sign in _last(errors) for sign in _OUT_OF_MEMORY)


def _last(errors: bytes) -> str:
    return errors.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:]
