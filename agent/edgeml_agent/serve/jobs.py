"""The jobs of a model: a queued call with the future of its answer, and how a call is done, step by step.

All but `settle` runs in the model's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeml_agent import log
from edgeml_agent.serve.calls import Infer, Predict, RequestInfo, Steps, Stream
from edgeml_core.errors import TransportError
from edgeml_runtime.model import Model

if TYPE_CHECKING:
    from edgeml_runtime.generate.conversation import Conversation

#: The result of a job of which a part has run.
UNFINISHED: Final = object()


@dataclass(eq=False)
class Job:
    """A call, and the future of its answer.

    Attributes:
        call: a function of the model, or a `Stream`.
        begun_s: the time of its first run.
        steps: the rest of the call, where a part of it has run.
        conversation: must read before the next step.
        took_s, busy_s: the time of that part.
    """

    call: Any
    info: RequestInfo
    answer: asyncio.Future[Any]
    yield_cores: Callable[[], None]
    submitted_s: float = field(default_factory=time.perf_counter)
    begun_s: float | None = None
    steps: Steps[Any] | None = None
    conversation: Conversation | None = None
    took_s: float = 0.0
    busy_s: float = 0.0

    def stopped(self) -> bool:
        """Whether no client waits any more; asked between two runs, when other models may compute first."""
        self.yield_cores()
        return self.answer.done()


def settle(job: Job, result: Any) -> None:  # noqa: ANN401 - any result of a call
    """Resolve the future of a job; a result may be an exception."""
    if job.answer.done():
        return
    if isinstance(result, BaseException):
        job.answer.set_exception(result)
    else:
        job.answer.set_result(result)


def result_of(model: Model, job: Job, others_wait: Callable[[], bool]) -> Any:  # noqa: ANN401 - any result of a call
    """Do a job, or its next steps; the result is `UNFINISHED`, or what its call returned or raised."""
    if job.info.is_late:
        message = "the request's deadline passed before its turn came"
        return TransportError("deadline-exceeded", message, "allow more time")
    try:
        if isinstance(job.call, Predict | Infer | Stream):
            job.steps = job.steps or job.call.steps(model, job.stopped)
            return _advance(job, job.steps, others_wait)
        return job.call(model)
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
        return error


def _advance(job: Job, steps: Steps[Any], others_wait: Callable[[], bool]) -> Any:  # noqa: ANN401 - as `result_of`
    """Go on with a request, step by step, while no other one waits and no conversation must read."""
    while True:
        try:
            job.conversation = next(steps)
        except StopIteration as done:
            return done.value
        if job.stopped():
            raise _left()
        if job.conversation is not None or others_wait():
            return UNFINISHED


def close_steps(job: Job) -> None:
    """End the steps of a finished job, which has its result: an error is logged."""
    if job.steps is None:
        return
    try:
        job.steps.close()
    except Exception as error:  # noqa: BLE001 - it must not end the thread
        log.defect("request not closed", error)


def let_read(model: Model, jobs: Sequence[Job]) -> dict[Job, Exception]:
    """Let the conversations of all jobs read; return the errors of those that can't, or whose clients have left."""
    errors: dict[Job, Exception] = {job: _left() for job in jobs if job.stopped()}
    conversations = {job: job.conversation for job in jobs if job.conversation is not None and job not in errors}
    try:
        model.read(list(conversations.values()))
    except Exception:  # noqa: BLE001 - each by itself, a conversation has its own error
        reading = {job: it for job, it in conversations.items() if not it.waits}
        errors |= {job: error for job, it in reading.items() if (error := _error(model, it))}
    return errors


def _error(model: Model, conversation: Conversation) -> Exception | None:
    try:
        model.read([conversation])
    except Exception as error:  # noqa: BLE001 - as in `result_of`
        return error
    return None


def _left() -> TransportError:
    return TransportError("client-left", "the client left before the answer was complete")
