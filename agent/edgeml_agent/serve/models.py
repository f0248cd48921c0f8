"""The models that this device serves: one version answers for each name, swapped without a failed request.

Each loaded model has a `worker`, which answers all requests that it got before a swap. An idle model gives up its
memory when another needs it, and is loaded again at its next request. All methods run on one event loop; only loading,
inference and closing leave it. No HTTP here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

from edgeml_agent import log
from edgeml_agent.ports import ShadowPolicy
from edgeml_agent.serve.calls import NO_INFO, Infer, Predict, RequestInfo, Steps, Stream
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.drift import Watches
from edgeml_agent.serve.inline import InlineRuns
from edgeml_agent.serve.metrics import Counted, RequestCounts
from edgeml_agent.serve.pieces import Pieces
from edgeml_agent.serve.shadow import Shadow
from edgeml_agent.serve.worker import NO_HOOKS, Worker, WorkerHooks
from edgeml_agent.store import tuning
from edgeml_agent.system import memory
from edgeml_core import golden
from edgeml_core.errors import DeviceError, OverloadedError, TransportError, UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared
from edgeml_core.processing import PromptInput
from edgeml_runtime import tensors
from edgeml_runtime.bench.batching import RunCost, measure_run_cost
from edgeml_runtime.generate.options import Constraint
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Prompt
from edgeml_runtime.verify import golden as golden_check

T = TypeVar("T")
_Part = TypeVar("_Part")
#: Makes pieces in the model's thread, step by step, and gives each to the function.
Generate: TypeAlias = "Callable[[Model, Callable[[_Part], None]], Steps[None]]"
#: A prompt whose answer has a form.
_FORMED: Final = Prompt(
    prompt="a", max_new_tokens=1, temperature=0.0, seed=0, constraint=Constraint(kind="regex", text="a")
)
#: Seconds after which a client should try again, when models in use leave no memory for its own.
_ROOM_AFTER_S: Final = 1


@dataclass(eq=False)
class Served:
    """One version of a model. `worker` is None while it rests, or after an operator unloaded it.

    `shadow` is there while another version is compared with it.
    """

    folder: Path
    manifest: Manifest
    deployment: str
    worker: Worker | None
    unloaded: bool = False
    shadow: Shadow | None = None
    activated_at: float = field(default_factory=time.time)
    used_s: float = field(default_factory=time.monotonic)

    @property
    def queue_depth(self) -> int:
        """Requests accepted and not yet answered."""
        return self.worker.pending if self.worker else 0

    @property
    def service_s(self) -> float:
        """The running mean of the seconds that one request takes."""
        return self.worker.service_s if self.worker else 0.0


class Models:
    """The models that this device serves.

    Args:
        cores: lent to the models' threads; by default all of this host.
        memory_bytes: the limit of the loaded models together, by their manifests; None sets none.
    """

    def __init__(self, *, cores: Cores | None = None, memory_bytes: int | None = None) -> None:
        self.counts = RequestCounts()
        self.watches = Watches()
        self._cores = cores or Cores()
        self._memory_bytes = memory_bytes
        self._served: dict[str, Served] = {}
        # One load at a time: two at once would need memory for both.
        self._changing = asyncio.Lock()
        #: Replaced versions while they answer what they have.
        self._retiring: dict[asyncio.Task[None], Manifest] = {}
        self._inline = InlineRuns()

    def active(self) -> Mapping[str, Served]:
        """The served models by name; a view, always current."""
        return MappingProxyType(self._served)

    def find(self, name: str, version: str | None = None) -> Served:
        """Find the served model `name`.

        Raises:
            UsageError: `model-unknown`, when it isn't served, or only in another version.
        """
        served = self._served.get(name)
        if served is None or version not in {None, served.manifest.version}:
            wanted = name if version is None else f"{name} version {version}"
            raise UsageError("model-unknown", f"no model {wanted!r} is served here", "GET /v1/models lists them")
        return served

    async def run(
        self, name: str, call: Callable[[Model], T], info: RequestInfo = NO_INFO, *, version: str | None = None
    ) -> T:
        """Run a call of the model: inline where the model is free and brief, else in its thread.

        An inline run awaits nothing. Cancelling drops a call that hasn't begun.

        Args:
            call: reads its version from `model.manifest`, as a swap may come between request and run. A `Predict` or
                an `Infer` may share a run with others.
            info: the size of the request, its client, its deadline.

        Raises:
            UsageError: `model-unknown`.
            OverloadedError: the model's queue is full, or there is no memory for it now.
            TransportError: `deadline-exceeded`.
        """
        with Counted(self.counts, self._served, name):
            served = self._served.get(name)
            if served is None or served.worker is None or served.unloaded or version is not None:
                served = await self._awake(name, version)
            served.used_s = time.monotonic()
            worker, shadow = served.worker, served.shadow
            assert worker is not None  # noqa: S101 - it is awake
            # No await between finding and running or queueing: a swap can't close the model in between.
            if shadow is not None and version is None and isinstance(call, Predict | Infer):
                return await shadow.answer(partial(_submit, info=info), call, worker)
            model = self._inline.begin(worker, info)
            return await _submit(worker, call, info=info) if model is None else worker.run_here(model, call)

    async def stream(self, name: str, generate: Generate[_Part], info: RequestInfo = NO_INFO) -> AsyncGenerator[_Part]:
        """Yield the pieces that `generate` makes, as they come; closing the generator ends it at its next step.

        Raises:
            As for `run`. `deadline-exceeded` also when the deadline comes amid the pieces, which end at the next one.
            TransportError: `client-left`, when too many pieces wait to be taken.
        """
        with Counted(self.counts, self._served, name):
            worker = (await self._awake(name, None)).worker
            assert worker is not None  # noqa: S101 - it is awake
            pieces = Pieces[_Part]()
            answer = worker.submit(Stream(lambda model: generate(model, pieces.emit)), info)
            pieces.end_with(answer)
            try:
                with _expiring(answer, info.deadline_s):
                    while (piece := await pieces.next()) is not None:
                        yield piece
                    await answer
            finally:
                answer.cancel()

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """Serve the bundle in `folder` as `name`; the version before it answers until this one is warm.

        The version before then answers what it has, see `retired`: of one model no third version is loaded.
        After a cancellation either the old version still answers or the new one does; see `active`.

        Raises:
            DeviceError: it can't be loaded or run; what was served before still is.
        """
        await self.retired(name)
        async with self._changing:
            old = self._served.get(name)
            await self._make_room(manifest, but=name)
            worker = await self._load(name, folder, manifest)
            self._served[name] = Served(folder, manifest, deployment, worker)
        if old is not None:
            self._retire(old)

    async def retired(self, name: str | None = None) -> None:
        """Wait until replaced versions of `name`, by default of all models, have answered and freed their memory.

        `worker.CLOSE_MAX_S` bounds it.
        """
        if closing := [task for task, manifest in self._retiring.items() if name in {None, manifest.name}]:
            await asyncio.wait(closing)

    async def compare(self, name: str, folder: Path, manifest: Manifest, rule: ShadowPolicy) -> Compared | None:
        """Give the bundle in `folder` the same requests as the served version of `name`, until the policy decides.

        Returns:
            The comparison; None when no version is served, or one for another task.

        Raises:
            DeviceError: `shadow-disagreed`; or it can't be loaded or run. The served version goes on.
        """
        served = self._served.get(name)
        if served is None or served.manifest.task != manifest.task:
            return None
        await self.retired(name)
        async with self._changing:
            await self._make_room(manifest, but=name)
            # Its requests are counted nowhere: it answers no client, or as a canary only.
            model, calibration = await asyncio.to_thread(_open_warm, folder, manifest)
            worker = Worker(model, self._cores, calibration=calibration, hooks=NO_HOOKS)
        served.shadow = Shadow(worker, served.manifest, rule)
        try:
            return await served.shadow.verdict()
        finally:
            served.shadow = None
            await asyncio.wait([self._close(worker, manifest)])

    async def reload(self, name: str) -> None:
        """Load the model's version again, since it was tuned; the loaded one answers until then.

        Raises:
            UsageError: `model-unknown`. DeviceError: it can't be loaded; the one before still answers.
        """
        await self.retired(name)
        async with self._changing:
            served = self.find(name)
            if (old := served.worker) is None:
                return
            served.worker = await self._load(name, served.folder, served.manifest)
        self._close(old, served.manifest)

    async def deactivate(self, name: str) -> None:
        """Stop serving `name`, whose queue is still answered; see `retired`. No error when it isn't served."""
        async with self._changing:
            served = self._served.pop(name, None)
        if served is not None:
            self._retire(served)

    async def unload(self, name: str) -> None:
        """Free the model's memory, after its queue is answered, until it is loaded or activated again.

        Raises:
            UsageError: `model-unknown`.
        """
        async with self._changing:
            served = self.find(name)  # here, as a version that was being loaded may have replaced another one
            served.unloaded = True
        await self._rest(served)

    async def load(self, name: str) -> None:
        """Load the model, if it isn't.

        Raises:
            UsageError: `model-unknown`. DeviceError: it can't be loaded now.
        """
        self.find(name).unloaded = False
        await self._wake(name)

    async def close(self) -> None:
        """Stop serving all models."""
        for name in list(self._served):
            await self.deactivate(name)
        await self.retired()

    async def _awake(self, name: str, version: str | None) -> Served:
        """Find the model, and load it if it rests."""
        while True:
            served = self.find(name, version)
            served.used_s = time.monotonic()
            if served.unloaded:
                raise UsageError("model-unknown", f"the model {name!r} is unloaded", "load it first")
            if served.worker is not None:
                return served
            await self._wake(name)

    async def _wake(self, name: str) -> None:
        async with self._changing:
            served = self.find(name)
            if served.worker is None and not served.unloaded:
                if not await self._make_room(served.manifest, but=name):
                    message = f"there is no memory for {name!r} while other models are in use"
                    raise OverloadedError("overloaded", message, "try again soon", retry_after_s=_ROOM_AFTER_S)
                served.worker = await self._load(name, served.folder, served.manifest)

    async def _make_room(self, manifest: Manifest, *, but: str) -> bool:
        """Let idle models rest, the one used longest ago first, until `manifest`'s fits.

        Returns:
            Whether it fits, or no other one is loaded.
        """
        if self._memory_bytes is None:
            return True
        others = [served for name, served in self._served.items() if name != but and served.worker is not None]
        others.sort(key=lambda served: served.used_s)
        retiring = sum(it.needs.ram_bytes for it in self._retiring.values())
        needed = manifest.needs.ram_bytes + sum(served.manifest.needs.ram_bytes for served in others) + retiring
        for served in others:
            if needed > self._memory_bytes and not served.queue_depth:
                needed -= served.manifest.needs.ram_bytes
                await self._rest(served)
        return needed <= self._memory_bytes or not (retiring or any(served.worker for served in others))

    async def _rest(self, served: Served) -> None:
        """Free a version's memory, after its queue is answered."""
        if (closing := self._retire(served)) is not None:
            await asyncio.wait([closing])

    def _retire(self, served: Served) -> asyncio.Task[None] | None:
        """Let a version answer what it has, and then free its memory."""
        worker, served.worker = served.worker, None
        return None if worker is None else self._close(worker, served.manifest)

    def _close(self, worker: Worker, manifest: Manifest) -> asyncio.Task[None]:
        closing = asyncio.create_task(worker.close())
        self._retiring[closing] = manifest
        closing.add_done_callback(self._retiring.pop)
        return closing

    async def _load(self, name: str, folder: Path, manifest: Manifest) -> Worker:
        model, calibration = await asyncio.to_thread(_open_warm, folder, manifest)
        model.observed = self.watches.over(name, manifest)
        hooks = WorkerHooks(partial(self.counts.waited, name), partial(self.counts.wrote, name))
        return Worker(model, self._cores, calibration=calibration, hooks=hooks)


async def _submit(worker: Worker, call: Callable[[Model], T], *, info: RequestInfo) -> T:
    """Return the worker's answer, unless the deadline comes first. Needs no current task."""
    answer = worker.submit(call, info)
    if info.deadline_s is None:
        return await answer
    with _expiring(answer, info.deadline_s):
        return await answer


@contextmanager
def _expiring(answer: asyncio.Future[Any], deadline_s: float | None) -> Iterator[None]:
    """Cancel an answer at its deadline, if it has one; the block then raises `deadline-exceeded`."""
    is_expired = False

    def expire() -> None:
        nonlocal is_expired
        is_expired = answer.cancel()

    after_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
    timer = None if after_s == math.inf else asyncio.get_running_loop().call_later(after_s, expire)
    try:
        yield
    except asyncio.CancelledError as error:
        if not is_expired:
            raise
        raise TransportError("deadline-exceeded", "the request's deadline passed", "allow more time") from error
    finally:
        if timer is not None:
            timer.cancel()


def _open_warm(folder: Path, manifest: Manifest) -> tuple[Model, RunCost]:
    """Open a model and run it once, so that its first client doesn't wait for the engine's own start."""
    opened = _opened(folder, manifest)
    _warm_forms(opened[0])
    memory.release()
    return opened


def _warm_forms(model: Model) -> None:
    """Begin an answer with a form, so that no client waits until the tokenizer is read for one."""
    if isinstance(model.manifest.preprocess, PromptInput):
        # Refused where the model or the device has no forms.
        with suppress(UsageError), closing(model.write(_FORMED, lambda _: None)) as steps:
            next(steps)


def _opened(folder: Path, manifest: Manifest) -> tuple[Model, RunCost]:
    """Open a model as it was tuned here; where that fails, as it was exported, to be tuned again.

    Returns:
        The model, after a run, and the cost of a run.
    """
    cases = golden.decode((folder / manifest.golden.path).read_bytes())
    inputs = [{name: tensors.from_data(data) for name, data in case.inputs.items()} for case in cases]
    if found := tuning.read(folder, manifest):
        path = tuning.prepared(folder, manifest) if found.prepared else None
        try:
            model = Model.open(folder, manifest, threads=found.threads, path=path)
            golden_check.check(model.session, manifest, cases[:1])
        except DeviceError as error:
            log.failure("not run as tuned", error, model=manifest.name)
            tuning.discard(folder)
        else:
            return model, measure_run_cost(model, inputs)._replace(batch_size=found.batch_size)
    model = Model.open(folder, manifest)
    model.infer(inputs[0])
    return model, measure_run_cost(model, inputs)
