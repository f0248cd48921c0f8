"""Requests counted by outcome and time, and a turn at a model without the way to its thread.

Classes instead of generators with `contextmanager`: one is made with every request, and they take a third of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container

from edgeml_agent.serve.metrics import CANCELLED, RequestCounts
from edgeml_agent.serve.worker import Worker
from edgeml_core.errors import EdgemlError
from edgeml_runtime.model import Model


class Counted:
    """Counts the request that the block answers.

    Args:
        served: the names of models that are served at the end; any other is no label, as clients could make up any
            number of them.
    """

    __slots__ = ("_begun_s", "_counts", "_name", "_served")

    def __init__(self, counts: RequestCounts, served: Container[str], name: str) -> None:
        self._counts = counts
        self._served = served
        self._name = name
        self._begun_s = time.perf_counter()

    def __enter__(self) -> None:
        """See the class."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """See the class."""
        name = self._name if self._name in self._served else ""
        code = "ok" if error is None else _outcome(error)
        self._counts.add(name, code, time.perf_counter() - self._begun_s)


class InlineRun:
    """The model, for the block to use on the event loop: `Worker.begin` has given it. Its request is counted."""

    __slots__ = ("_begun_s", "_counts", "_model", "_name", "_worker")

    def __init__(self, counts: RequestCounts, name: str, worker: Worker, model: Model) -> None:
        self._counts = counts
        self._name = name
        self._worker = worker
        self._model = model
        self._begun_s = time.perf_counter()

    def __enter__(self) -> Model:
        """See the class."""
        return self._model

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """See the class."""
        took_s = time.perf_counter() - self._begun_s
        self._worker.end(took_s)
        self._counts.add(self._name, "ok" if error is None else _outcome(error), took_s)


def _outcome(error: BaseException) -> str:
    if isinstance(error, EdgemlError):
        return error.code
    return CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal"
