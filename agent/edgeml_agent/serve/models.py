"""The models that this device serves: which version answers for each name, swapped without a failed request.

Each loaded model has a `worker`: what was asked of it before a swap is answered by it. A model that nobody asks gives
its memory up when another needs it, and is loaded again when it is asked. All methods run on one event loop; only
loading, inference and closing leave it. No HTTP here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from edgeml_agent import log
from edgeml_agent.ports import ShadowPolicy
from edgeml_agent.serve.cores import Cores
from edgeml_agent.serve.drift import Watches
from edgeml_agent.serve.inline import Counted, InlineRun
from edgeml_agent.serve.metrics import RequestCounts
from edgeml_agent.serve.shadow import Shadow
from edgeml_agent.serve.worker import BRIEF_MAX_S, NO_HOOKS, QUICK_MAX_S, Infer, Predict, Stoppable, Worker, WorkerHooks
from edgeml_agent.store import tuning
from edgeml_agent.system import memory
from edgeml_core import golden
from edgeml_core.errors import DeviceError, OverloadedError, TransportError, UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared
from edgeml_runtime import tensors
from edgeml_runtime.bench.batching import RunCost, measure_run_cost
from edgeml_runtime.model import Model
from edgeml_runtime.verify import golden as golden_check

T = TypeVar("T")
_Part = TypeVar("_Part")
#: Makes pieces in the model's thread: hands each to the first function, and ends early when the second says so.
Generate = Callable[[Model, Callable[[_Part], None], Callable[[], bool]], None]
#: What a model that others keep busy lets its clients wait.
_ROOM_AFTER_S: Final = 1


@dataclass(eq=False)
class Served:
    """One version of a model. `worker` is None while it rests, or is unloaded on an operator's word.

    `shadow` is there while another version is compared with it.
    """

    folder: Path
    manifest: Manifest
    deployment: str
    worker: Worker | None
    unloaded: bool = False
    shadow: Shadow | None = None
    activated_at: float = field(default_factory=time.time)
    asked_s: float = field(default_factory=time.monotonic)

    @property
    def queue_depth(self) -> int:
        """Requests accepted and not yet answered."""
        return self.worker.pending if self.worker else 0

    @property
    def service_s(self) -> float:
        """The running mean of the time that one request takes."""
        return self.worker.service_s if self.worker else 0.0


class Models:
    """The models that this device serves.

    Args:
        cores: lent to the models' threads; by default all of this machine.
        memory_bytes: what the loaded models may need together, by their manifests; None sets no bound.
    """

    def __init__(self, *, cores: Cores | None = None, memory_bytes: int | None = None) -> None:
        self.counts = RequestCounts()
        self.watches = Watches()
        self._cores = cores or Cores()
        self._memory_bytes = memory_bytes
        self._served: dict[str, Served] = {}
        # One load at a time: two at once would need the memory of both.
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        #: Whether a brief model was run in this turn of the event loop.
        self._had_brief = False

    def active(self) -> Mapping[str, Served]:
        """The served models by name; a view, always current."""
        return MappingProxyType(self._served)

    def find(self, name: str, version: str | None = None) -> Served:
        """The served model `name`.

        Raises:
            UsageError: `model-unknown`, when it isn't served, or in another version than the one asked.
        """
        served = self._served.get(name)
        if served is None or version not in {None, served.manifest.version}:
            wanted = name if version is None else f"{name} version {version}"
            raise UsageError("model-unknown", f"no model {wanted!r} is served here", "GET /v1/models lists them")
        return served

    async def run(
        self,
        name: str,
        call: Callable[[Model], T],
        *,
        version: str | None = None,
        deadline_s: float | None = None,
        size_bytes: int | None = None,
    ) -> T:
        """What `call` makes of the model, in that model's thread. Cancel it, and what hasn't begun is forgotten.

        Args:
            call: reads its version from `model.manifest`: a swap may come between asking and running. A
                `worker.Predict` may share a run with others.
            deadline_s: on the clock `time.monotonic`.
            size_bytes: of the request, where its call is one run and what goes with it.

        Raises:
            UsageError: `model-unknown`.
            OverloadedError: the model's queue is full, or there is no memory for it now.
            TransportError: `deadline-exceeded`.
        """
        with Counted(self.counts, self._served, name):
            worker = await self._worker(name, version)
            # No await between finding and queueing: a swap can't close the model in between.
            ask = partial(_ask, deadline_s=deadline_s, size_bytes=size_bytes)
            shadow = self._served[name].shadow
            if shadow is not None and version is None and isinstance(call, Predict | Infer):
                return await shadow.answer(ask, call, worker)
            return await ask(worker, call)

    def turn(self, name: str, version: str | None = None, *, size_bytes: int) -> InlineRun | None:
        """A turn at the model here, without the way to its thread, where it is free and the request short.

        That is for quick models; for one that is brief once in each turn of the event loop, which others wait for.

        Args:
            size_bytes: of the request, whose call is one run and what goes with it.

        Returns:
            None when the request is for `run`.
        """
        served = self._served.get(name)
        if served is None or served.worker is None or served.shadow is not None:
            return None
        if version not in (None, served.manifest.version):
            return None
        model = served.worker.begin(size_bytes, QUICK_MAX_S if self._had_brief else BRIEF_MAX_S)
        if model is None:
            return None
        if not served.worker.is_quick:
            self._had_brief = True
            asyncio.get_running_loop().call_soon(self._let_brief)
        served.asked_s = time.monotonic()
        return InlineRun(self.counts, name, served.worker, model)

    def _let_brief(self) -> None:
        self._had_brief = False

    async def stream(self, name: str, generate: Generate[_Part]) -> AsyncGenerator[_Part]:
        """The pieces that `generate` makes, as they come; who stops listening ends it at its next piece.

        Raises:
            UsageError: `model-unknown`. OverloadedError: as for `run`.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[_Part | None] = asyncio.Queue()

        def emit(piece: _Part) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        with Counted(self.counts, self._served, name):
            worker = await self._worker(name, None)
            answer = worker.submit(Stoppable(lambda model, stopped: generate(model, emit, stopped)))
            answer.add_done_callback(lambda _: pieces.put_nowait(None))
            try:
                while (piece := await pieces.get()) is not None:
                    yield piece
                await answer
            finally:
                answer.cancel()

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """Serve the bundle in `folder` as `name`; the version before it answers until this one is warm.

        Returns once the old version's requests are answered and its memory is free. When it is cancelled, either the
        old version still answers or the new one does; `active` tells.

        Raises:
            DeviceError: it can't be loaded or run; what was served before still is.
        """
        async with self._changing:
            old = self._served.get(name)
            await self._make_room(manifest, but=name)
            worker = await self._load(name, folder, manifest)
            self._served[name] = Served(folder, manifest, deployment, worker)
            if old is not None:
                await self._rest(old)

    async def compare(self, name: str, folder: Path, manifest: Manifest, rule: ShadowPolicy) -> Compared | None:
        """Give the bundle in `folder` the same requests as the version of `name` that serves, until the rule decides.

        Returns:
            What came of it; None when nothing serves, or something for another task.

        Raises:
            DeviceError: `shadow-disagreed`; or it can't be loaded or run. What serves goes on.
        """
        served = self._served.get(name)
        if served is None or served.manifest.task != manifest.task:
            return None
        async with self._changing:
            await self._make_room(manifest, but=name)
            # What it does is counted nowhere: nobody is answered by it, or as a canary only.
            model, calibration = await asyncio.to_thread(_open_warm, folder, manifest)
            worker = Worker(model, self._cores, calibration=calibration, noticed=NO_HOOKS)
        served.shadow = Shadow(worker, served.manifest, rule)
        try:
            return await served.shadow.verdict()
        finally:
            served.shadow = None
            await self._close(worker)

    async def reload(self, name: str) -> None:
        """Load the model's version anew, as it was tuned meanwhile; the one loaded before answers until then.

        Raises:
            UsageError: `model-unknown`. DeviceError: it can't be loaded; the one before still answers.
        """
        async with self._changing:
            served = self.find(name)
            if served.worker is not None:
                worker = await self._load(name, served.folder, served.manifest)
                old, served.worker = served.worker, worker
                await self._close(old)

    async def deactivate(self, name: str) -> None:
        """Stop serving `name`, after answering what is queued. No error when it isn't served."""
        async with self._changing:
            served = self._served.pop(name, None)
            if served is not None:
                await self._rest(served)

    async def unload(self, name: str) -> None:
        """Free the model's memory, after answering what is queued, until `load` is called or it is activated anew.

        Raises:
            UsageError: `model-unknown`.
        """
        served = self.find(name)
        async with self._changing:
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
        await asyncio.gather(*self._retiring)

    async def _worker(self, name: str, version: str | None) -> Worker:
        """The model's worker, awake."""
        while True:
            served = self.find(name, version)
            served.asked_s = time.monotonic()
            if served.unloaded:
                raise UsageError("model-unknown", f"the model {name!r} is unloaded", "load it first")
            if served.worker is not None:
                return served.worker
            await self._wake(name)

    async def _wake(self, name: str) -> None:
        async with self._changing:
            served = self.find(name)
            if served.worker is None:
                if not await self._make_room(served.manifest, but=name):
                    message = f"there is no memory for {name!r} while other models are in use"
                    raise OverloadedError("overloaded", message, "try again soon", retry_after_s=_ROOM_AFTER_S)
                served.worker = await self._load(name, served.folder, served.manifest)

    async def _make_room(self, manifest: Manifest, *, but: str) -> bool:
        """Let models rest, the one asked longest ago first, until `manifest`'s fits; never one that is in use.

        Returns:
            Whether it fits, or nothing more could go.
        """
        if self._memory_bytes is None:
            return True
        others = [served for name, served in self._served.items() if name != but and served.worker is not None]
        others.sort(key=lambda served: served.asked_s)
        needed = manifest.needs.ram_bytes + sum(served.manifest.needs.ram_bytes for served in others)
        for served in others:
            if needed > self._memory_bytes and not served.queue_depth:
                needed -= served.manifest.needs.ram_bytes
                await self._rest(served)
        return needed <= self._memory_bytes or not any(served.worker for served in others)

    async def _rest(self, served: Served) -> None:
        """Close a version's worker; who gives up waiting for it leaves it closing."""
        worker, served.worker = served.worker, None
        if worker is not None:
            await self._close(worker)

    async def _close(self, worker: Worker) -> None:
        closing = asyncio.create_task(worker.close())
        self._retiring.add(closing)
        closing.add_done_callback(self._retiring.discard)
        await asyncio.shield(closing)

    async def _load(self, name: str, folder: Path, manifest: Manifest) -> Worker:
        model, calibration = await asyncio.to_thread(_open_warm, folder, manifest)
        model.observed = self.watches.over(name, manifest)
        noticed = WorkerHooks(partial(self.counts.waited, name), partial(self.counts.wrote, name))
        return Worker(model, self._cores, calibration=calibration, noticed=noticed)


async def _ask(worker: Worker, call: Callable[[Model], T], *, deadline_s: float | None, size_bytes: int | None) -> T:
    """The worker's answer, in time."""
    answer = worker.submit(call, deadline_s, size_bytes=size_bytes)
    try:
        async with asyncio.timeout(None if deadline_s is None else deadline_s - time.monotonic()):
            return await answer
    except TimeoutError as error:
        raise TransportError("deadline-exceeded", "the request's deadline passed") from error


def _open_warm(folder: Path, manifest: Manifest) -> tuple[Model, RunCost]:
    """A model that ran once, so that its first client doesn't wait for what engines do then; and how fast it runs."""
    opened = _opened(folder, manifest)
    memory.release()
    return opened


def _opened(folder: Path, manifest: Manifest) -> tuple[Model, RunCost]:
    """The model, warm, and how it runs.

    It runs as it was tuned here. Where it can't, it runs as it was exported, and is tuned anew.
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
            return model, measure_run_cost(model, inputs)._replace(batch_size=found.share)
    model = Model.open(folder, manifest)
    model.infer(inputs[0])
    return model, measure_run_cost(model, inputs)
