"""One loaded model in a thread of its own, and the bounded queue in front of it.

Theory. All methods run on the event loop; only `_work` and the functions that it calls run in the model's thread. A
request is in exactly one of four places:

    refused   the queue is full: its client gets the time to come back (`admission`)
    inline    nothing is pending and the model is brief: it runs on the event loop, between `begin` and `end`
    short     the thread is busy and the model is quick: it waits here, and runs on the event loop after the thread
    queued    everything else: the thread takes it, with the requests behind it that may share its run

`pending` counts the last two. The model itself has no lock. The event loop may use it only while `_given`, the number
of jobs that the thread was given and has not returned, is 0; only the event loop changes `_given`. So the two never use
it at once. The cores that a run needs are borrowed from `Cores`, which every model of the process shares.

Why inline: the way to the thread and back takes a quarter of a millisecond, ten times the run of a small model. The
thread competes for Python's lock, too. Why short: each request that arrives while another is in the thread would also
take the slow way, and the first queue would never end. Short jobs don't wait for jobs that come after them. A long job
therefore moves all short ones to the thread first, in their order.

Times decide. `_alone_s` is the running mean of a run's CPU time. It makes a model quick, up to `QUICK_MAX_S`, or brief,
up to `BRIEF_MAX_S`. A model that becomes slow loses the privilege, one that was disturbed once has it back. Language
models never have it: one request is many runs. Nor do models of sound: a file of few bytes may hold minutes.

A queued job is dropped when its answer is cancelled (its client has left) or its deadline passes. A worker that closes
answers what it has, for `CLOSE_MAX_S` at most, as one text may take hours. A run can't be
stopped. A request of many items or rows takes many runs: after each, the jobs that wait go first and the request goes
to the end of the queue, so it delays others by one run. Texts are written in rounds: in each one all conversations read
their newest token, in a run that they share. A conversation joins between two rounds, and leaves at its end.
Models by name, versions and HTTP are unknown here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from threading import Condition, Thread
from typing import Any, Final, NamedTuple, TypeVar

from edgeml_agent.serve import calls
from edgeml_agent.serve.admission import AdmissionQueue
from edgeml_agent.serve.calls import NO_INFO, RequestInfo, Stream
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.jobs import UNFINISHED, Job, close_steps, let_read, result_of, settle
from edgeml_agent.serve.metrics import Tally
from edgeml_agent.system import memory
from edgeml_core.errors import OverloadedError, TransportError
from edgeml_core.processing import AudioInput, Decoded, PromptInput
from edgeml_runtime.bench.batching import RunCost
from edgeml_runtime.generate.batch import ROWS_MAX
from edgeml_runtime.model import Model

#: Requests of one model, the running one included; past it a client gets the time to come back.
QUEUE_MAX: Final = 32
#: Seconds of a quick model's run. Such a run is shorter than the way to the thread and back.
QUICK_MAX_S: Final = 0.000_25
#: Seconds of a brief model's run: for so much the event loop may be blocked once in each of its turns.
BRIEF_MAX_S: Final = 0.005
#: Bytes of a request that may run inline; parsing a longer one takes more than a quick run.
INLINE_MAX_BYTES: Final = 8 * 1024
#: Seconds in which a worker that closes answers what it has: a small board writes 2,500 tokens of a text in them.
CLOSE_MAX_S: Final = 300.0
#: Places of the queue that clients who come back may take at once, and places that are never reserved for them.
_RESERVED_MAX: Final = QUEUE_MAX // 2
_UNRESERVED: Final = QUEUE_MAX // 4
#: Weight of the newest request in the running mean of the service time.
_NEWEST_WEIGHT: Final = 0.2

T = TypeVar("T")


class WorkerHooks(NamedTuple):
    """Called on the event loop: with the seconds that a request waited, and for each token that a model writes."""

    waited: Callable[[float], None]
    wrote: Callable[[], None]


#: For workers whose requests are counted nowhere.
NO_HOOKS: Final = WorkerHooks(lambda _: None, lambda: None)


class Worker:
    """The thread of one model; it ends with `close`. Methods are called on the event loop that made it.

    Args:
        calibration: the measured cost of a run.
        hooks: called for each request and each token.
    """

    def __init__(self, model: Model, cores: Cores, *, calibration: RunCost, hooks: WorkerHooks) -> None:
        #: Requests accepted and not yet answered, and the running mean of the time that one takes.
        self.pending = 0
        self.service_s = calibration.run_s
        #: The same without the thread's waits, above all for the lock of Python's interpreter.
        self._alone_s = calibration.run_s
        #: Runs, and the time spent in them.
        self.ran = Tally()
        self._name = model.manifest.name
        self._threads = model.threads
        self._cores = cores
        self._share = calibration.batch_size
        manifest = model.manifest
        self._is_unbounded = isinstance(manifest.preprocess, PromptInput | AudioInput) or isinstance(
            manifest.postprocess, Decoded
        )
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        #: Jobs that wait for the thread, and jobs that the thread has or will have.
        self._queue: deque[Job] = deque()
        self._given = 0
        self._unanswered: set[Job] = set()
        #: Jobs of the thread that write a text.
        self._writing: list[Job] = []
        #: Jobs that wait for the thread to be done with the model, and then run on the event loop.
        self._short: deque[Job] = deque()
        self._changed = Condition()
        #: Whether nothing more can be submitted.
        self.is_closing = False
        self._closed = asyncio.Event()
        self._admission = AdmissionQueue(_RESERVED_MAX)
        model.wrote = partial(self._loop.call_soon_threadsafe, hooks.wrote)
        self._model: Model | None = model
        Thread(target=self._work, name=f"model-{self._name}", daemon=True).start()

    def submit(self, call: Callable[[Model], T] | Stream[T], info: RequestInfo = NO_INFO) -> asyncio.Future[T]:
        """Put `call` at the end of the queue. Cancelling the returned future takes it back.

        Raises:
            OverloadedError: the queue is full.
            TransportError: `deadline-exceeded`, since this version no longer serves.
        """
        if self.is_closing:
            message = f"this version of {self._name!r} no longer serves"
            raise TransportError("deadline-exceeded", message, "send the request again")
        if self.pending >= _UNRESERVED or self._admission:
            self._check_place(info.client)
        job = Job(call, info, self._loop.create_future(), partial(self._cores.yield_cores, self._threads))
        self._unanswered.add(job)
        job.answer.add_done_callback(partial(self._take_back, job))
        self.pending += 1
        if self._given and self._is_short(info.size_bytes):
            self._short.append(job)
        else:
            self._give_short()
            self._give(job)
        return job.answer

    @property
    def is_quick(self) -> bool:
        """Whether a run is shorter than the way to the thread and back."""
        return self._alone_s <= QUICK_MAX_S

    def begin(self, size_bytes: int | None, longest_s: float = QUICK_MAX_S) -> Model | None:
        """Take the model and its cores to run a request on the event loop, until `end`; nothing is awaited in between.

        Args:
            size_bytes: of the request; None where its call may take any time.
            longest_s: how long a run may take by the running mean.

        Returns:
            None where the request must be submitted: something is pending, or it or the model isn't short.
        """
        if self.pending or not self._is_short(size_bytes, longest_s) or not self._cores.take_free(self._threads):
            return None
        return self._model

    def end(self, took_s: float) -> None:
        """Return the model and the cores that `begin` gave."""
        self._cores.give_back(self._threads)
        self._count(1, took_s, took_s)
        self._hooks.waited(0.0)

    def run_here(self, model: Model, call: Callable[[Model], T]) -> T:
        """Run a call on the event loop; its cores were taken."""
        begun_s = time.perf_counter()
        try:
            return call(model)
        finally:
            self.end(time.perf_counter() - begun_s)

    async def close(self) -> None:
        """Answer all queued requests, then free the model. Those that last longer than `CLOSE_MAX_S` get an error."""
        self._give_short()
        with self._changed:
            self.is_closing = True
            self._changed.notify()
        ending = self._loop.call_later(CLOSE_MAX_S, self._end_unanswered)
        await self._closed.wait()
        ending.cancel()

    def _end_unanswered(self) -> None:
        message = f"this version of {self._name!r} no longer serves, and had {CLOSE_MAX_S:.0f} s for its last answers"
        for job in self._unanswered:
            if not job.answer.done():
                job.answer.set_exception(TransportError("deadline-exceeded", message, "send the request again"))

    def _is_short(self, size_bytes: int | None, longest_s: float = QUICK_MAX_S) -> bool:
        """Whether a request of that length may run on the event loop."""
        is_small = size_bytes is not None and size_bytes <= INLINE_MAX_BYTES
        return is_small and self._alone_s <= longest_s and not self._is_unbounded

    def _give(self, job: Job) -> None:
        """Give a job to the thread."""
        self._given += 1
        with self._changed:
            self._queue.append(job)
            self._changed.notify()

    def _give_short(self) -> None:
        """Give all short jobs to the thread, before a job that came after them."""
        while self._short:
            self._give(self._short.popleft())

    def _run_short(self) -> None:
        """Run the short jobs, once the thread is done with the model; give those to it that can't run here."""
        while self._short and not self._given:
            job = self._short.popleft()
            is_short = self._is_short(job.info.size_bytes) and not job.info.is_late
            if is_short and self._model is not None and self._cores.take_free(self._threads):
                self.pending -= 1
                settle(job, self._result_here(self._model, job))
            else:
                self._give(job)

    def _result_here(self, model: Model, job: Job) -> Any:  # noqa: ANN401 - any result of a call
        try:
            return self.run_here(model, job.call)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            return error

    def _check_place(self, client: Hashable) -> None:
        """Raise OverloadedError when the queue is full, or its places are reserved for clients that come back."""
        now_s = time.monotonic()
        is_back = self._admission.is_back(client, now_s)
        has_free = is_back or self.pending < _UNRESERVED
        reserved = 0 if has_free else self._admission.expected(now_s + QUEUE_MAX * self.service_s)
        if self.pending + reserved >= QUEUE_MAX:
            room_s = (self.pending - _RESERVED_MAX) * self.service_s
            wait_s = self._admission.join(client, now_s, room_s=room_s, service_s=self.service_s)
            what = f"the queue of {self._name!r} is full"
            raise OverloadedError("overloaded", what, f"try again in {wait_s} s", retry_after_s=wait_s)

    def _take_back(self, job: Job, answer: asyncio.Future[Any]) -> None:
        """Drop a job whose answer was cancelled or ended, if it hasn't begun."""
        self._unanswered.discard(job)
        if not answer.cancelled() and not self.is_closing:
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

    def _finish(self, finished: Sequence[tuple[Job, Any]]) -> None:
        """Hand out the results of one run; a result may be an exception."""
        self.pending -= len(finished)
        self._given -= len(finished)
        self._count(len(finished), sum(job.took_s for job, _ in finished), sum(job.busy_s for job, _ in finished))
        for job, result in finished:
            self._hooks.waited((job.begun_s or job.submitted_s) - job.submitted_s)
            settle(job, result)
        self._run_short()

    def _count(self, jobs: int, took_s: float, busy_s: float) -> None:
        weight = _NEWEST_WEIGHT if self.ran.count else 1
        self.service_s += (took_s / jobs - self.service_s) * weight
        self._alone_s += (busy_s / jobs - self._alone_s) * weight
        self.ran.add(took_s)

    # The rest runs in the model's thread.

    def _work(self) -> None:
        model = self._model
        assert model is not None  # noqa: S101 - it is given up at the end of this
        while (jobs := self._taken()) or self._writing:
            if jobs:
                self._do(jobs, partial(self._results, model, jobs))
            if self._writing:
                writing, self._writing = self._writing, []
                self._do(writing, partial(self._results_of_round, model, writing))
        try:
            model.close()
        finally:
            self._model = model = None
            memory.release()
            self._loop.call_soon_threadsafe(self._closed.set)

    def _do(self, jobs: Sequence[Job], run: Callable[[], list[Any]]) -> None:
        """Run something for the jobs, and hand out the result of each."""
        with self._cores.borrowed(self._threads):
            begun_s, busy_s = time.perf_counter(), time.thread_time()
            results = run()
        took_s, busy_s = time.perf_counter() - begun_s, time.thread_time() - busy_s
        for job in jobs:
            job.begun_s = job.begun_s or begun_s
            job.took_s += took_s / len(jobs)
            job.busy_s += busy_s / len(jobs)
        self._return(jobs, results)

    def _results(self, model: Model, jobs: Sequence[Job]) -> list[Any]:
        """Run the jobs; the result of each is `UNFINISHED`, or what its call returned or raised."""
        if len(jobs) > 1 and not any(job.info.is_late for job in jobs):
            try:
                return list(calls.run_together(model, [job.call for job in jobs]))
            except Exception:  # noqa: BLE001, S110 - run alone, each job has its own error
                pass
        return [result_of(model, job, self._others_wait if job is jobs[-1] else _always) for job in jobs]

    def _results_of_round(self, model: Model, jobs: Sequence[Job]) -> list[Any]:
        """Let all conversations read, and take the next step of each job; the results are as those of `_results`."""
        errors = let_read(model, jobs)
        return [errors.get(job) or result_of(model, job, self._others_wait) for job in jobs]

    def _others_wait(self) -> bool:
        """Whether jobs wait for the model."""
        if self._short:
            self._loop.call_soon_threadsafe(self._give_short)
        return bool(self._queue)

    def _return(self, jobs: Sequence[Job], results: Sequence[Any]) -> None:
        """Hand the finished jobs to the event loop; the others go on writing, or to the end of the queue."""
        pairs = list(zip(jobs, results, strict=True))
        finished = [(job, result) for job, result in pairs if result is not UNFINISHED]
        unfinished = [job for job, result in pairs if result is UNFINISHED]
        for job, _ in finished:
            close_steps(job)  # in this thread, which alone may use the model
        self._writing += (job for job in unfinished if job.conversation is not None)
        with self._changed:
            self._queue.extend(job for job in unfinished if job.conversation is None)
        if finished:
            self._loop.call_soon_threadsafe(self._finish, finished)

    def _taken(self) -> list[Job]:
        """Take the next job, with those behind it that may share its run; none at the end, or where texts go first."""
        if len(self._writing) >= ROWS_MAX:
            return []
        with self._changed:
            while not self._queue and not self.is_closing and not self._writing:
                self._changed.wait()
            jobs = [self._queue.popleft()] if self._queue else []
            while self._queue and len(jobs) < self._share and _can_share(jobs[0], self._queue[0]):
                jobs.append(self._queue.popleft())
            return jobs


def _always() -> bool:
    return True


def _can_share(one: Job, other: Job) -> bool:
    return one.steps is None and other.steps is None and calls.can_share(one.call, other.call)
