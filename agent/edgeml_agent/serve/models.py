"""The live models: which version answers for each name, swapped without a failed request.

Each model has one worker thread, since sessions are single-threaded, and a bounded queue in front of it. A thread's
queue is first in, first out: closing a replaced model is its last job, so whatever was asked of it before the swap is
answered by it. All methods run on one event loop; only loading, inference and closing leave it. No HTTP here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from edgeml_agent.serve import memory
from edgeml_agent.serve.metrics import RequestCounts
from edgeml_core import golden
from edgeml_core.errors import EdgemlError, OverloadedError, UsageError
from edgeml_core.manifest import Manifest
from edgeml_runtime import tensors
from edgeml_runtime.model import Model

#: Requests of one model, the running one included. Past it a client is told when to come back.
QUEUE_MAX: Final = 32
RETRY_AFTER_MIN_S: Final = 1
#: How much the newest request counts in the running mean of the service time.
_NEWEST_SHARE: Final = 0.2

T = TypeVar("T")


class LiveModel:
    """One version of a model, loaded and warm, with its thread and queue."""

    def __init__(self, model: Model, worker: ThreadPoolExecutor, deployment: str) -> None:
        self.manifest: Manifest = model.manifest
        self.deployment = deployment
        self.activated_at = time.time()
        self.service_s = 0.0
        self._pending = 0
        self._model = model
        self._worker = worker

    @property
    def queue_depth(self) -> int:
        """Requests accepted and not yet answered."""
        return self._pending

    def submit(self, call: Callable[[Model], T]) -> asyncio.Future[T]:
        """Put `call` at the end of the queue.

        Raises:
            OverloadedError: the queue is full.
        """
        if self._pending >= QUEUE_MAX:
            wait_s = max(RETRY_AFTER_MIN_S, math.ceil(self._pending * self.service_s))
            what = f"the queue of {self.manifest.name!r} is full"
            raise OverloadedError("overloaded", what, f"try again in {wait_s} s", retry_after_s=wait_s)
        loop = asyncio.get_running_loop()
        self._pending += 1
        job: Future[T] = self._worker.submit(self._timed, call)
        # Counted when the thread is done with it, not when its client stops waiting.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finished))
        return asyncio.wrap_future(job)

    async def close(self) -> None:
        """Answer what is queued, then free the model."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._free)
        self._worker.shutdown(wait=False)

    def _timed(self, call: Callable[[Model], T]) -> T:
        started = time.perf_counter()
        try:
            return call(self._model)
        finally:
            took_s = time.perf_counter() - started
            self.service_s += (took_s - self.service_s) * (_NEWEST_SHARE if self.service_s else 1)

    def _finished(self) -> None:
        self._pending -= 1

    def _free(self) -> None:
        self._model.close()
        del self._model
        memory.release()


class Models:
    """The models that this device serves."""

    def __init__(self) -> None:
        self.counts = RequestCounts()
        self._live: dict[str, LiveModel] = {}
        # One load at a time: two at once would need the memory of both.
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    def active(self) -> Mapping[str, LiveModel]:
        """The live models by name; a view, always current."""
        return MappingProxyType(self._live)

    def find(self, name: str, version: str | None = None) -> LiveModel:
        """The live model `name`.

        Raises:
            UsageError: `model-unknown`, when it isn't served, or in another version than the one asked.
        """
        live = self._live.get(name)
        if live is None or version not in {None, live.manifest.version}:
            wanted = name if version is None else f"{name} version {version}"
            raise UsageError("model-unknown", f"no model {wanted!r} is served here", "GET /v1/models lists them")
        return live

    async def run(self, name: str, call: Callable[[Model], T], *, version: str | None = None) -> T:
        """What `call` makes of the live model, in that model's thread.

        Args:
            call: reads its version from `model.manifest`: a swap may come between asking and running.

        Raises:
            UsageError: `model-unknown`.
            OverloadedError: the model's queue is full.
        """
        started, code = time.perf_counter(), "internal"
        try:
            # No await between finding and queueing: a swap can't close the model in between.
            answer = await self.find(name, version).submit(call)
            code = "ok"
        except EdgemlError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        else:
            return answer
        finally:
            # A name that isn't served is no label: clients could make up any number of them.
            self.counts.add(name if name in self._live else "", code, time.perf_counter() - started)

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """Serve the bundle in `folder` as `name`; the version before it answers until this one is warm.

        Returns once the old version's requests are answered and its memory is free. When it is cancelled, either the
        old version still answers or the new one does; `active` tells.

        Raises:
            DeviceError: it can't be loaded or run; what was served before still is.
        """
        async with self._changing:
            old = self._live.get(name)
            self._live[name] = await _load(folder, manifest, deployment)
            if old is not None:
                await self._retire(old)

    async def deactivate(self, name: str) -> None:
        """Stop serving `name`, after answering what is queued. No error when it isn't served."""
        async with self._changing:
            live = self._live.pop(name, None)
            if live is not None:
                await self._retire(live)

    async def close(self) -> None:
        """Stop serving all models."""
        for name in list(self._live):
            await self.deactivate(name)
        await asyncio.gather(*self._retiring)

    async def _retire(self, live: LiveModel) -> None:
        """Close a model that is no longer found; who gives up waiting for it leaves it closing."""
        closing = asyncio.create_task(live.close())
        self._retiring.add(closing)
        closing.add_done_callback(self._retiring.discard)
        await asyncio.shield(closing)


async def _load(folder: Path, manifest: Manifest, deployment: str) -> LiveModel:
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"model-{manifest.name}")
    try:
        model = await asyncio.get_running_loop().run_in_executor(worker, _open_warm, folder, manifest)
    except BaseException:
        worker.shutdown(wait=False)
        raise
    return LiveModel(model, worker, deployment)


def _open_warm(folder: Path, manifest: Manifest) -> Model:
    """Open the model and run it once, so that its first client doesn't wait for what engines do at the first run."""
    model = Model.open(folder, manifest)
    case = golden.decode((folder / manifest.golden.path).read_bytes())[0]
    model.infer({name: tensors.from_data(data) for name, data in case.inputs.items()})
    return model
