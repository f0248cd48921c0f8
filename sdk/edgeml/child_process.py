"""Child processes of the host: msgpack requests on stdin, msgpack replies on stdout, a bound on the time of each.

A model may crash, hang or exhaust the memory of the process that loads it, so it runs in a child. Verification,
benchmarks and the gate's latencies all start their children here: on this machine, emulated, or by ssh. `run` is for
programs that answer once, `conversation` for those that stay up. Their side of the protocol is `edgeml_runtime.stdio`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final, TypeVar

import msgspec

from edgeml_core import decoding
from edgeml_core.card import How
from edgeml_core.errors import DeviceError, TransportError
from edgeml_runtime import stdio

#: Seconds for one reply. An emulated large encoder takes seconds for each row; a child beyond this hangs.
TIMEOUT_S: Final = 1800.0
#: Seconds for a program that stays up to end after its stdin was closed.
END_TIMEOUT_S: Final = 5.0
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
    child = _start(site, subprocess.PIPE)
    try:
        output, errors = child.communicate(request, timeout=site.timeout_s)
    except subprocess.TimeoutExpired as error:
        raise _hung(site) from error
    finally:
        _kill_group(child)
    _check_end(site, child.returncode, errors)
    try:
        return decoding.from_msgpack(output, reply)
    except msgspec.MsgspecError as error:
        raise _no_answer(site, child.returncode, errors) from error


class Conversation:
    """A program that stays up and answers one request after the other; see `conversation`."""

    def __init__(self, site: ExecutionSite, child: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert child.stdin is not None  # noqa: S101 -- opened as a pipe
        assert child.stdout is not None  # noqa: S101 -- as above
        self._site, self._child, self._errors = site, child, errors
        self._stdin, self._stdout = child.stdin, child.stdout

    def ask(self, request: bytes, reply: type[Reply]) -> Reply:
        """Send one request and decode its reply; raises as `run` does, and the program has ended then."""
        try:
            unsent = memoryview(stdio.frame(request))
            while unsent:
                unsent = unsent[self._stdin.write(unsent) :]
        except OSError as error:
            raise self._failed() from error
        deadline = time.monotonic() + self._site.timeout_s
        length = self._read(stdio.LENGTH_BYTES, deadline)
        answer = self._read(int.from_bytes(length, "big"), deadline)
        try:
            return decoding.from_msgpack(answer, reply)
        except msgspec.MsgspecError as error:
            raise self._failed() from error

    def _read(self, count: int, deadline: float) -> bytes:
        data = b""
        while len(data) < count:
            ready, _, _ = select.select([self._stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                _kill_group(self._child)
                raise _hung(self._site)
            part = self._stdout.read(count - len(data))
            if not part:
                raise self._failed()
            data += part
        return data

    def _failed(self) -> DeviceError | TransportError:
        """Report the end of the program, which has closed its stdin or stdout, or replied nonsense."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(END_TIMEOUT_S)
        _kill_group(self._child)
        self._errors.seek(0)
        errors = self._errors.read()
        try:
            _check_end(self._site, self._child.returncode, errors)
        except (DeviceError, TransportError) as error:
            return error
        return _no_answer(self._site, self._child.returncode, errors)


@contextlib.contextmanager
def conversation(site: ExecutionSite, *, end_timeout_s: float = END_TIMEOUT_S) -> Iterator[Conversation]:
    """Start a program that stays up (`stdio.converse`). It ends with the context, and so do all processes of its group.

    Args:
        site: where it runs.
        end_timeout_s: seconds that it has to end by itself; then it is killed.

    Raises:
        DeviceError: `probe-crashed`, when it couldn't start.
    """
    with tempfile.TemporaryFile() as errors:
        child = _start(site, errors)
        try:
            yield Conversation(site, child, errors)
        finally:
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(end_timeout_s)
            _kill_group(child)


def environment() -> dict[str, str]:
    """Copy this process's environment without secrets and without variables that change which code runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("EDGEML_", "PYTHON", "QEMU_"))}


def _start(site: ExecutionSite, stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            site.command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            env=environment(), start_new_session=True, bufsize=0,
        )  # fmt: skip
    except OSError as error:
        raise DeviceError("probe-crashed", f"the run on {site.name} couldn't start: {error}", site.hint) from error


def _check_end(site: ExecutionSite, code: int, errors: bytes) -> None:
    """Raise when the exit code is that of a lost machine or of a signal."""
    if code == site.lost_code:
        message = f"{site.name} can't be reached: {_last(errors)}"
        raise TransportError("host-unreachable", message, "connect to it with ssh by hand")
    if (number := -code if code < 0 else code - _SIGNAL_BASE) in set(signal.Signals):
        raise _ended_by_signal(site, signal.Signals(number), errors)


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


def _hung(site: ExecutionSite) -> DeviceError:
    return _crashed(site, f"gave no answer within {site.timeout_s:.0f} s")


def _no_answer(site: ExecutionSite, code: int, errors: bytes) -> DeviceError:
    what = f"ended with code {code} and no answer: {_last(errors)}"
    return _crashed(site, what, is_out_of_memory=_names_memory(errors))


def _crashed(site: ExecutionSite, what: str, *, is_out_of_memory: bool = False) -> DeviceError:
    return DeviceError(
        "probe-crashed", f"the run on {site.name} {what}", _MEMORY_HINT if is_out_of_memory else site.hint
    )


def _names_memory(errors: bytes) -> bool:
    return any(sign in _last(errors) for sign in _OUT_OF_MEMORY)


def _last(errors: bytes) -> str:
    return errors.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:]
