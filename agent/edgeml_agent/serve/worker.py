"""One loaded model in a thread of its own, and the bounded queue in front of it.

First in, first out. What is queued is forgotten as soon as whoever asked has gone or its deadline has passed; what
runs can't be stopped, unless it looks whether it should. Requests that were asked one behind the other share a run
where the model gains by it. Where a run is shorter than the way to the thread and back, it is done on the event loop.
Which model that is, and who asks, isn't known here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Any, Final, Generic, NamedTuple, TypeVar

from edgeml_agent.serve.admission import CLIENT, AdmissionQueue
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.metrics import Tally
from edgeml_agent.system import memory
from edgeml_core.errors import OverloadedError, TransportError
from edgeml_core.processing import PromptInput
from edgeml_runtime.bench.batching import RunCost
from edgeml_runtime.inputs import Prepared
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Item
from edgeml_runtime.tensors import Array

#: Requests of one model, the running one included. Past it a client is told when to come back.
QUEUE_MAX: Final = 32
#: A run and a request shorter than this are done at once: to the thread and back takes a quarter of a millisecond.
QUICK_MAX_S: Final = 0.000_25
#: So long a run may keep the event loop once in each of its turns, when nothing is pending.
BRIEF_MAX_S: Final = 0.005
AT_ONCE_MAX_BYTES: Final = 8 * 1024
#: Places that those may take at once who were told to come back; and those that are never kept for them.
_KEPT_MAX: Final = QUEUE_MAX // 2
_UNKEPT: Final = QUEUE_MAX // 4
#: How much the newest request counts in the running mean of the service time.
_NEWEST_SHARE: Final = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class Predict(Generic[T]):
    """A call that predicts items, so that several of them can share a run.

    Attributes:
        parse: the items in a request.
        write: what becomes of the answers to them.
    """

    parse: Callable[[Model], Sequence[Item]]
    write: Callable[[Model, Sequence[Answer]], T]

    def __call__(self, model: Model, stopped: Callable[[], bool] = lambda: False) -> T:
        """The answer, alone; given up when nobody waits for it any more, where it is made in pieces."""
        return self.write(model, model.predict(self.parse(model), stopped))


@dataclass(frozen=True)
class Infer(Generic[T]):
    """A call for a model's raw outputs.

    Attributes:
        prepare: the items in a request and what is made of them; no items, where the client made it.
        write: what becomes of the outputs.
    """

    prepare: Callable[[Model], tuple[Sequence[Item], Prepared]]
    write: Callable[[Model, Mapping[str, Array]], T]

    def __call__(self, model: Model) -> T:
        """The answer."""
        return self.write(model, model.run(*self.prepare(model)))


@dataclass(frozen=True)
class Stoppable(Generic[T]):
    """A call of many runs, which asks the second argument between them whether it should stop."""

    call: Callable[[Model, Callable[[], bool]], T]

    def __call__(self, model: Model, stopped: Callable[[], bool] = lambda: False) -> T:
        """What comes of it."""
        return self.call(model, stopped)


class WorkerHooks(NamedTuple):
    """Who is told what goes on, on the event loop."""

    waited: Callable[[float], None]
    wrote: Callable[[], None]


#: Nobody is told.
NO_HOOKS: Final = WorkerHooks(lambda _: None, lambda: None)


@dataclass(frozen=True, eq=False)
class _Job:
    """A call, and where its answer goes."""

    call: Callable[[Model], Any]
    deadline_s: float | None
    answer: asyncio.Future[Any]
    yield_cores: Callable[[], None]
    asked_s: float = field(default_factory=time.perf_counter)

    def stopped(self) -> bool:
        """Whether nobody waits for the answer any more; asked between two runs, when others may compute first."""
        self.yield_cores()
        return self.answer.cancelled()


class Worker:
    """The thread of one model; it ends with `close`. Methods are called on the event loop that made it.

    Args:
        calibration: what was measured of the model.
        noticed: told of each request how long it waited for its run, and of each token that the model writes.
    """

    def __init__(self, model: Model, cores: Cores, *, calibration: RunCost, noticed: WorkerHooks) -> None:
        #: Requests accepted and not yet answered, and the running mean of the time that one takes.
        self.pending = 0
        self.service_s = calibration.run_s
        #: The same without what the thread waits for, for the lock of Python's interpreter above all.
        self._alone_s = calibration.run_s
        #: Runs, and the time spent in them.
        self.ran = Tally()
        self._name = model.manifest.name
        self._threads = model.threads
        self._cores = cores
        self._share = calibration.batch_size
        self._writes = isinstance(model.manifest.preprocess, PromptInput)
        self._noticed = noticed
        self._loop = asyncio.get_running_loop()
        #: What waits for the thread, and how much the thread has to do with what it has taken. What is short waits for
        #: the thread to be done with the model, and is then run here: under load, too, the way to the thread is saved.
        self._queue: deque[_Job] = deque()
        self._given = 0
        self._short: deque[_Job] = deque()
        self._changed = Condition()
        self._closing = False
        self._closed = asyncio.Event()
        self._line = AdmissionQueue(_KEPT_MAX)
        model.wrote = partial(self._loop.call_soon_threadsafe, noticed.wrote)
        self._model: Model | None = model
        Thread(target=self._work, name=f"model-{self._name}", daemon=True).start()

    def submit(
        self, call: Callable[[Model], T], deadline_s: float | None = None, *, size_bytes: int | None = None
    ) -> asyncio.Future[T]:
        """Put `call` at the end of the queue. Cancelling what is returned takes it back.

        Args:
            deadline_s: on the clock `time.monotonic`; past it the call isn't begun.
            size_bytes: of the request, where its call is one run and what goes with it.

        Raises:
            OverloadedError: the queue is full.
        """
        if self.pending >= _UNKEPT or self._line:
            self._require_place()
        job = _Job(call, deadline_s, self._loop.create_future(), partial(self._cores.yield_cores, self._threads))
        job.answer.add_done_callback(partial(self._take_back, job))
        self.pending += 1
        if self._given and size_bytes is not None and self._is_short(size_bytes):
            self._short.append(job)
        else:
            self._give_short()
            self._give(job)
        return job.answer

    @property
    def is_quick(self) -> bool:
        """Whether a run is shorter than the way to the thread and back."""
        return self._alone_s <= QUICK_MAX_S

    def begin(self, size_bytes: int, longest_s: float = QUICK_MAX_S) -> Model | None:
        """The model and the cores, if a request of that length may be run here, on the event loop, until `end`.

        As nothing is pending, the thread leaves the model alone. No await in between.

        Args:
            longest_s: how long it may take by what is known.
        """
        if self.pending or not self._is_short(size_bytes, longest_s) or not self._cores.take_free(self._threads):
            return None
        return self._model

    def end(self, took_s: float) -> None:
        """Return what `begin` gave, after so long."""
        self._cores.give_back(self._threads)
        self._count(1, took_s, took_s)
        self._noticed.waited(0.0)

    async def close(self) -> None:
        """Answer what is queued, then free the model."""
        self._give_short()
        with self._changed:
            self._closing = True
            self._changed.notify()
        await self._closed.wait()

    def _is_short(self, size_bytes: int = 0, longest_s: float = QUICK_MAX_S) -> bool:
        return size_bytes <= AT_ONCE_MAX_BYTES and self._alone_s <= longest_s and not self._writes

    def _give(self, job: _Job) -> None:
        """To the thread."""
        self._given += 1
        with self._changed:
            self._queue.append(job)
            self._changed.notify()

    def _give_short(self) -> None:
        """What is short doesn't wait for more than was asked before it."""
        while self._short:
            self._give(self._short.popleft())

    def _run_short(self) -> None:
        """Run what is short, now that the thread is done with the model; what can't be run here goes to the thread."""
        while self._short and not self._given:
            job = self._short.popleft()
            if self._is_short() and not _is_late(job) and self._cores.take_free(self._threads):
                self.pending -= 1
                _settle(job, self._result_here(job))
            else:
                self._give(job)

    def _result_here(self, job: _Job) -> Any:  # noqa: ANN401 - whatever the call makes
        assert self._model is not None  # noqa: S101 - it is closed after the last submission
        begun_s = time.perf_counter()
        try:
            return job.call(self._model)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            return error
        finally:
            self.end(time.perf_counter() - begun_s)

    def _require_place(self) -> None:
        """Raise OverloadedError when the queue is full, or its places are kept for others who come back."""
        now_s, client = time.monotonic(), CLIENT.get()
        is_back = self._line.is_back(client, now_s)
        kept = 0 if is_back or self.pending < _UNKEPT else self._line.expected(now_s + QUEUE_MAX * self.service_s)
        if self.pending + kept >= QUEUE_MAX:
            room_s = (self.pending - _KEPT_MAX) * self.service_s
            wait_s = self._line.join(client, now_s, room_s=room_s, service_s=self.service_s)
            what = f"the queue of {self._name!r} is full"
            raise OverloadedError("overloaded", what, f"try again in {wait_s} s", retry_after_s=wait_s)

    def _take_back(self, job: _Job, answer: asyncio.Future[Any]) -> None:
        """Forget a job whose answer nobody waits for, if it hasn't begun."""
        if not answer.cancelled():
            return
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._given -= 1
                self.pending -= 1
        if job in self._short:
            self._short.remove(job)
            self.pending -= 1
        self._run_short()

    def _finish(
        self, jobs: Sequence[_Job], results: Sequence[Any], begun_s: float, *, took_s: float, busy_s: float
    ) -> None:
        """Hand the results of one run out; an exception is one, too."""
        self.pending -= len(jobs)
        self._given -= len(jobs)
        self._count(len(jobs), took_s, busy_s)
        for job, result in zip(jobs, results, strict=True):
            self._noticed.waited(begun_s - job.asked_s)
            _settle(job, result)
        self._run_short()

    def _count(self, jobs: int, took_s: float, busy_s: float) -> None:
        share = _NEWEST_SHARE if self.ran.count else 1
        self.service_s += (took_s / jobs - self.service_s) * share
        self._alone_s += (busy_s / jobs - self._alone_s) * share
        self.ran.add(took_s)

    # What follows runs in the model's thread.

    def _work(self) -> None:
        model = self._model
        assert model is not None  # noqa: S101 - it is given up at the end of this
        while jobs := self._taken():
            with self._cores.borrowed(self._threads):
                begun_s, busy_s = time.perf_counter(), time.thread_time()
                results = _results(model, jobs)
            times = {"took_s": time.perf_counter() - begun_s, "busy_s": time.thread_time() - busy_s}
            self._loop.call_soon_threadsafe(partial(self._finish, jobs, results, begun_s, **times))
        try:
            model.close()
        finally:
            self._model = model = None
            memory.release()
            self._loop.call_soon_threadsafe(self._closed.set)

    def _taken(self) -> list[_Job]:
        """The next job, with those behind it that may share its run; none at the end."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            jobs = [self._queue.popleft()] if self._queue else []
            while self._queue and len(jobs) < self._share and _can_share(jobs[0], self._queue[0]):
                jobs.append(self._queue.popleft())
            return jobs


def _settle(job: _Job, result: Any) -> None:  # noqa: ANN401 - whatever the call makes
    """Hand a result to who waits for it; an exception is one, too."""
    if job.answer.done():
        return
    if isinstance(result, BaseException):
        job.answer.set_exception(result)
    else:
        job.answer.set_result(result)


def _can_share(one: _Job, other: _Job) -> bool:
    return isinstance(one.call, Predict | Infer) and type(one.call) is type(other.call)


def _is_late(job: _Job) -> bool:
    return job.deadline_s is not None and time.monotonic() > job.deadline_s


def _results(model: Model, jobs: Sequence[_Job]) -> list[Any]:
    """What came of each job: its result, or the exception."""
    if len(jobs) < 2 or any(map(_is_late, jobs)):
        return [_result(model, job) for job in jobs]
    try:
        return list(_together(model, [job.call for job in jobs]))
    except Exception:  # noqa: BLE001 - whose fault it is shows when each runs alone
        return [_result(model, job) for job in jobs]


def _result(model: Model, job: _Job) -> Any:  # noqa: ANN401 - whatever the call makes
    if _is_late(job):
        return TransportError("deadline-exceeded", "the request's deadline passed before its turn came")
    try:
        if isinstance(job.call, Predict | Stoppable):
            return job.call(model, job.stopped)
        return job.call(model)
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
        return error


def _together(model: Model, calls: Sequence[Any]) -> Iterator[Any]:
    """The results of calls of one kind, from a run that they share."""
    if isinstance(calls[0], Infer):
        outputs = model.run_together([call.prepare(model) for call in calls])
        yield from (call.write(model, one) for call, one in zip(calls, outputs, strict=True))
        return
    asked = [call.parse(model) for call in calls]
    answers = iter(model.predict([item for items in asked for item in items]))
    for call, items in zip(calls, asked, strict=True):
        yield call.write(model, [next(answers) for _ in items])
