"""The process that times one candidate in turns with others: `python -m edgeml.check.turns_child`.

Stdin: a `Contestant`, then indices of its inputs, each behind its length. Stdout: one number a line.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from edgeml.check.turns import Contestant
from edgeml_core.errors import EdgemlError
from edgeml_runtime import engines
from edgeml_runtime.bench import child
from edgeml_runtime.engines import Session
from edgeml_runtime.tensors import Array, from_data

#: Runs of one input in a turn; the shortest counts. On a busy host five runs are enough that one is undisturbed.
RUNS: Final = 5
#: Milliseconds; a slow model has fewer runs, so that a turn stays short.
RUNS_BUDGET_MS: Final = 250.0
_LENGTH_BYTES: Final = 8


def main() -> None:
    """Load the contestant, then time each input that is named, until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # runtimes print, and stdout holds replies alone
    messages = _messages(sys.stdin.buffer)
    contestant = msgspec.msgpack.decode(next(messages), type=Contestant)
    inputs = [{name: from_data(tensor) for name, tensor in given.items()} for given in contestant.inputs]
    try:
        session = engines.load(Path(contestant.path), contestant.manifest, threads=contestant.threads)
        for given in inputs:
            session.run(given)
    except EdgemlError as error:
        sys.exit(error.message)
    replies.write(b"0\n")
    for message in messages:
        given = inputs[msgspec.msgpack.decode(message, type=int)]
        replies.write(f"{_shortest_ms(session, given)}\n".encode())


def _shortest_ms(session: Session, given: Mapping[str, Array]) -> float:
    """The shortest of `RUNS` runs, or of those that fit into `RUNS_BUDGET_MS`."""
    begun = time.perf_counter()
    shortest = child.run_ms(session, given)
    for _ in range(RUNS - 1):
        if child.ms_since(begun) > RUNS_BUDGET_MS:
            break
        shortest = min(shortest, child.run_ms(session, given))
    return shortest


def _messages(source: BinaryIO) -> Iterator[bytes]:
    while size := source.read(_LENGTH_BYTES):
        yield source.read(int.from_bytes(size, "big"))


if __name__ == "__main__":
    main()
