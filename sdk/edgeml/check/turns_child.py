"""The program that times one candidate in turns with others: `python -m edgeml.check.turns_child`.

It stays up (`stdio.converse`). Its first request is a `Contestant`, the others are `RunInput`s; each reply is a
`RunReply`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from edgeml.check.turns import Contestant, RunInput, RunReply
from edgeml_core.calls import Refused
from edgeml_core.errors import EdgemlError
from edgeml_runtime import engines, stdio
from edgeml_runtime.bench import child
from edgeml_runtime.engines import Session
from edgeml_runtime.tensors import Array, from_data

#: Runs of one input in a turn; the shortest counts. On a busy host five runs are enough that one is undisturbed.
RUNS: Final = 5
#: Milliseconds; a slow model has fewer runs, so that a turn stays short.
RUNS_BUDGET_MS: Final = 250.0


class Timer:
    """Replies to requests, with the contestant that the first one names."""

    def __init__(self) -> None:
        self._session: Session
        self._inputs: list[dict[str, Array]] = []

    def reply(self, request: Contestant | RunInput) -> RunReply:
        """Load the contestant, or time one of its inputs; an error of a runtime is a reply, too."""
        try:
            if isinstance(request, RunInput):
                return RunReply(ms=_shortest_ms(self._session, self._inputs[request.index]))
            self._load(request)
            return RunReply()
        except EdgemlError as error:
            return RunReply(refused=Refused.of(error))

    def _load(self, contestant: Contestant) -> None:
        """Load a contestant, and run each input once to warm up."""
        self._inputs = [{name: from_data(it) for name, it in tensors.items()} for tensors in contestant.inputs]
        self._session = engines.load(Path(contestant.path), contestant.manifest, threads=contestant.threads)
        for inputs in self._inputs:
            self._session.run(inputs)


def _shortest_ms(session: Session, inputs: Mapping[str, Array]) -> float:
    """Time `RUNS` runs, or those that fit into `RUNS_BUDGET_MS`, and return the shortest."""
    one = partial(session.run, inputs)
    begun = time.perf_counter()
    shortest = child.run_ms(one)
    for _ in range(RUNS - 1):
        if child.ms_since(begun) > RUNS_BUDGET_MS:
            break
        shortest = min(shortest, child.run_ms(one))
    return shortest


if __name__ == "__main__":
    sys.exit(stdio.converse(Contestant | RunInput, Timer().reply))
