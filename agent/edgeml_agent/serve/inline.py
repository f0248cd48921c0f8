"""Inline runs: a request runs on the event loop where its model is free and brief, instead of in the model's thread.

A quick model may always run so. Other brief models may once in each turn of the event loop: every other request then
waits for one such run at most.
"""

from __future__ import annotations

import asyncio

from edgeml_agent.serve.calls import RequestInfo
from edgeml_agent.serve.worker import BRIEF_MAX_S, QUICK_MAX_S, Worker
from edgeml_runtime.model import Model


class InlineRuns:
    """Decides which requests run inline, over all models of one event loop."""

    def __init__(self) -> None:
        #: Whether a brief model ran in this turn of the event loop.
        self._had_brief = False

    def begin(self, worker: Worker, info: RequestInfo) -> Model | None:
        """Take the worker's model for one run, which must follow at once: `Worker.run_here`.

        Returns:
            None where the request must be submitted to the worker.
        """
        if info.deadline_s is not None and info.is_late:
            return None
        model = worker.begin(info.size_bytes, QUICK_MAX_S if self._had_brief else BRIEF_MAX_S)
        if model is not None and not worker.is_quick:
            self._had_brief = True
            asyncio.get_running_loop().call_soon(self._end_turn)
        return model

    def _end_turn(self) -> None:
        self._had_brief = False
