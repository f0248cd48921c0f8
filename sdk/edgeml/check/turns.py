"""Candidates timed against each other in turns, each in a process that stays up.

A process loads one model and waits. One turn runs every candidate on every input, one candidate after the other, and
the next turn begins with the next candidate. So all of them meet the same disturbances.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec

from edgeml import child_process
from edgeml.child_process import Conversation
from edgeml_core.calls import Refused
from edgeml_core.errors import DeviceError
from edgeml_core.golden import TensorData
from edgeml_core.manifest import Manifest

#: The program of each process.
PROGRAM: Final = "edgeml.check.turns_child"
#: Seconds for one reply; a model that takes longer for a few runs has hung.
REPLY_TIMEOUT_S: Final = 600
_HINT: Final = "name one format with --format"


class Contestant(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A candidate to time: its model file, its manifest, and its own tensors for each input of the mix."""

    path: str
    manifest: Manifest
    threads: int
    inputs: tuple[dict[str, TensorData], ...]


class RunInput(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The request to time one input of the contestant, by its index."""

    index: int


class RunReply(msgspec.Struct, frozen=True, kw_only=True):
    """The shortest of a few runs in milliseconds, or the error that came instead."""

    ms: float = 0.0
    refused: Refused | None = None


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
    site = child_process.here(PROGRAM, timeout_s=REPLY_TIMEOUT_S)
    with child_process.conversation(site) as conversation:
        process = _Process(conversation)
        process.ask(contestant)
        yield process


class _Process:
    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def run_ms(self, index: int) -> float:
        """Return the shortest of a few runs on one input, in milliseconds."""
        return self.ask(RunInput(index=index)).ms

    def ask(self, request: Contestant | RunInput) -> RunReply:
        """Send a request to the program."""
        try:
            reply = self._conversation.ask(msgspec.msgpack.encode(request), RunReply)
        except DeviceError as error:
            raise _failed(error.message) from error
        if reply.refused is not None:
            raise _failed(reply.refused.message)
        return reply


def _failed(cause: str) -> DeviceError:
    return DeviceError("runtime-failed", f"timing the model failed: {cause}", _HINT)
