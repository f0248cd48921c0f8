"""Candidates timed against each other in turns, each in a process that stays up.

A process loads one model and waits. One turn runs every candidate on every input, one candidate after the other, and
the next turn begins with the next candidate. So all of them meet the same disturbances.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Final

import msgspec

from edgeml import child_process
from edgeml_core.errors import DeviceError
from edgeml_core.golden import TensorData
from edgeml_core.manifest import Manifest

#: The program of each process.
PROGRAM: Final = "edgeml.check.turns_child"
#: Seconds for one reply; a model that takes longer for a few runs has hung.
REPLY_TIMEOUT_S: Final = 600
#: Seconds for a process to end after its input was closed.
END_TIMEOUT_S: Final = 5
#: Characters of a failed process's output that the error quotes.
_QUOTED_CHARS: Final = 500
_HINT: Final = "name one format with --format"


class Contestant(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate to time: its model file, its manifest, and its own tensors for each input of the mix."""

    path: str
    manifest: Manifest
    threads: int
    inputs: tuple[dict[str, TensorData], ...]


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Open processes, one for each contestant.

    Args:
        processes: in the order of the contestants.
        weights: the fraction of requests for each input of the mix; their sum is 1.
        numbers: of the turns.
    """

    processes: tuple[_Process, ...]
    weights: tuple[float, ...]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def take(self) -> list[float]:
        """Take one turn.

        Returns:
            The expected time of each contestant over the mix, in milliseconds.

        Raises:
            DeviceError: `runtime-failed`.
        """
        count = len(self.processes)
        first = next(self.numbers)
        expected = [0.0] * count
        for index, weight in enumerate(self.weights):
            for place in range(count):
                at = (first + place) % count
                expected[at] += weight * self.processes[at].run_ms(index)
        return expected


@contextmanager
def started(contestants: Sequence[Contestant], weights: Sequence[float]) -> Iterator[Turns]:
    """Start a process for each contestant, and end them all at last.

    Raises:
        DeviceError: `runtime-failed`, when a process fails or hangs.
    """
    with ExitStack() as stack:
        processes = tuple(stack.enter_context(_process(it)) for it in contestants)
        yield Turns(processes=processes, weights=tuple(weights))


@contextmanager
def _process(contestant: Contestant) -> Iterator[_Process]:
    command = child_process.python(PROGRAM)
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=child_process.environment(),
            bufsize=0,
        )
        process = _Process(child, errors)
        try:
            process.send(msgspec.msgpack.encode(contestant))
            process.reply()
            yield process
        finally:
            process.end()


class _Process:
    def __init__(self, child: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._child = child
        self._errors = errors

    def run_ms(self, index: int) -> float:
        """The shortest of a few runs on one input, in milliseconds."""
        self.send(msgspec.msgpack.encode(index))
        return self.reply()

    def send(self, message: bytes) -> None:
        """Send one message behind its length."""
        assert self._child.stdin is not None  # noqa: S101 -- opened as a pipe
        try:
            view = memoryview(len(message).to_bytes(8, "big") + message)
            while view:
                view = view[self._child.stdin.write(view) :]
        except OSError as error:
            raise self._failed() from error

    def reply(self) -> float:
        """The number on the next line."""
        out = self._child.stdout
        assert out is not None  # noqa: S101 -- opened as a pipe
        ready, _, _ = select.select([out], [], [], REPLY_TIMEOUT_S)
        line = out.readline() if ready else b""
        try:
            return float(line)
        except ValueError as error:
            raise self._failed() from error

    def end(self) -> None:
        """Close the process's input, and kill the process where that doesn't end it."""
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        try:
            self._child.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _failed(self) -> DeviceError:
        self.end()
        self._errors.seek(0)
        message = self._errors.read().decode(errors="replace").strip()[-_QUOTED_CHARS:]
        return DeviceError("runtime-failed", f"timing the model failed: {message or 'no reply in time'}", _HINT)
