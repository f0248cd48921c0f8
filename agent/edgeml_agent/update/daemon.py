"""The agent as it runs: serve at once, follow the fleet document and the store, start updates, end in order.

`UpdateTask` runs one model's update, and `Agent` has its steps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgeml_agent import log
from edgeml_agent.ports import Clock, Link
from edgeml_agent.probe.remote_calls import Calls
from edgeml_agent.serve.metrics import Metric
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.update.agent import Agent
from edgeml_agent.update.reporter import Reporter
from edgeml_agent.update.slot import UpdateSlot
from edgeml_agent.update.update_task import RETRY_FIRST_S, RETRY_MAX_S, UpdateTask
from edgeml_core.desired import Deployment
from edgeml_core.errors import DeviceError, EdgemlError, TransportError, UsageError
from edgeml_core.lifecycle import State
from edgeml_io import aio, backoff

#: Probation after activation, in seconds of wall time or uptime. Unclean restarts during it count against the version.
PROBATION_S: Final = 600.0
#: Unclean restarts during probation after which the previous version serves again.
CRASHES_MAX: Final = 3
#: November 2023, in seconds since 1970. An earlier clock was never set, so its times mean nothing.
CLOCK_SET_S: Final = 1_700_000_000.0
#: Seconds between two looks at the signed files without an announcement: they may have expired.
LOOK_EVERY_S: Final = 600.0
#: Seconds between two looks at the store: `edgeml-agent rollback` takes effect within them.
STORE_LOOK_EVERY_S: Final = 1.0
#: Seconds between two reports of drift. Drift is slow, and a quantity near a bound must not rewrite the retained state.
DRIFT_REPORT_EVERY_S: Final = 600.0
#: Seconds between two looks for a serving release that was never tuned.
TUNE_LOOK_EVERY_S: Final = 5.0
#: Seconds before a background task that failed runs again.
TASK_PAUSE_S: Final = 60.0
#: States without an unfinished update.
_AT_REST: Final = frozenset({State.IDLE, State.ACTIVE, State.REJECTED, State.ROLLED_BACK, State.REMOVED})


class Daemon:
    """The agent as it runs on a device.

    Args:
        folder: the store's folder.
        relay: runs the connection to the site's broker, on a device that is a relay.
        tunes: whether to tune serving releases for this device.
    """

    def __init__(
        self,
        agent: Agent,
        link: Link,
        store: Store,
        reporter: Reporter,
        *,
        calls: Calls,
        clock: Clock,
        folder: Path,
        relay: Callable[[], Coroutine[Any, Any, None]] | None = None,
        tunes: bool = False,
    ) -> None:
        self._agent = agent
        self._link = link
        self._relay = relay
        self._calls = calls
        self._store = store
        self._reporter = reporter
        self._clock = clock
        self._tunes = tunes
        self._slot = UpdateSlot(folder, clock)
        self._updates: dict[str, UpdateTask] = {}
        self._delays = backoff.delays(RETRY_FIRST_S, RETRY_MAX_S)
        #: The store's `changes` when its releases were last served; those made while the agent starts count, too.
        self._changes_seen: int | None = None
        self.ready = False

    async def run(self) -> None:
        """Serve and follow the fleet until cancelled."""
        try:
            await self.start_serving()
        except asyncio.CancelledError:
            self._end_run()  # a stop is no crash, however long the models load
            raise
        try:
            async with asyncio.TaskGroup() as tasks:
                # An operator sees at the first start that the settings can't be used; later the card has lost a file.
                ends_for = () if self._agent.serving else UsageError
                tasks.create_task(keep_running("connection", self._link.run, self._clock, ends_for=ends_for))
                if self._relay is not None:
                    tasks.create_task(keep_running("relay", self._relay, self._clock, ends_for=ends_for))
                for name, work in {
                    "updates": lambda: self._follow_fleet(tasks),
                    "the store's changes": self._follow_store,
                    "models that don't answer": self._load_again,
                    "probation": self._end_probations,
                    "tuning": self._tune,
                    "drift": self._report_drift,
                    "calls": self._calls.run,
                }.items():
                    tasks.create_task(keep_running(name, work, self._clock))
        finally:
            # An exception of the agent's own is no crash: only a killed process leaves the mark of an unclean run.
            self._end_run()

    def _end_run(self) -> None:
        with _store_errors_logged():
            self._store.end_run()

    def metrics(self) -> Iterator[Metric]:
        """Return the metrics of updates for `/metrics`."""
        return self._agent.metrics.collect()

    async def start_serving(self) -> None:
        """Serve the active releases before anything else; roll back those whose probation had too many crashes."""
        clean = True
        with _store_errors_logged():
            self._changes_seen = self._store.changes()
            clean = self._store.begin_run()
        for record in self._store.records().values():
            with _store_errors_logged():
                await self._agent.interrupt(record.name)
                if not clean:
                    self._count_crash(record)
            try:
                await self._agent.serve(record.name)
            except EdgemlError as error:
                log.failure("not serving", error, model=record.name)
        self._reporter.publish_state()
        self.ready = True

    def _count_crash(self, record: ModelRecord) -> None:
        is_clock_right = CLOCK_SET_S < record.activated_at < self._clock.now()
        is_over = is_clock_right and self._clock.now() - record.activated_at >= PROBATION_S
        if not record.is_on_probation or is_over or not record.previous:
            return
        if self._store.count_unclean(record.name) >= CRASHES_MAX:
            message = f"{CRASHES_MAX} unclean restarts within {PROBATION_S:.0f} s of activating {record.version}"
            self._store.roll_back(record.name, "crash-loop", message)

    async def _end_probations(self) -> None:
        """End each version's probation once it has served for `PROBATION_S` in one run, by any clock."""
        while True:
            activated = {record.name: record.activated_at for record in self._store.records().values()}
            await asyncio.sleep(PROBATION_S)
            for name, activated_at in activated.items():
                await asyncio.to_thread(self._store.end_probation, name, activated_at)

    async def _report_drift(self) -> None:
        while True:
            await asyncio.sleep(DRIFT_REPORT_EVERY_S)
            self._reporter.drift()

    async def _follow_fleet(self, tasks: asyncio.TaskGroup) -> None:
        wait_s = LOOK_EVERY_S
        while True:
            # Not `wait_for`: an announcement that comes as it is cancelled would be lost.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._link.announced()
            wait_s = await self._look(tasks)

    async def _look(self, tasks: asyncio.TaskGroup) -> float:
        """Read the desired state, and start or abandon updates.

        Returns:
            Seconds until the next look, unless an announcement comes before.
        """
        try:
            deployments = await self._agent.desired()
        except TransportError as error:
            log.failure("no desired state", error)
            return next(self._delays)
        except EdgemlError as error:
            self._reporter.refused(error)
            if error.code == "device-revoked":
                self._abandon({}, tasks)
            return LOOK_EVERY_S
        except Exception as error:  # noqa: BLE001 - no defect in this step may end the process that serves
            defect = DeviceError("internal", f"the agent failed: {error}", "read the agent's log for the traceback")
            log.defect("no desired state", error)
            self._reporter.refused(defect)
            return LOOK_EVERY_S
        self._delays = backoff.delays(RETRY_FIRST_S, RETRY_MAX_S)
        self._reporter.trust_restored()
        self._reporter.serving_withdrawn(await self._agent.serving_withdrawn())
        self._abandon(deployments, tasks)
        for name, deployment in deployments.items():
            self._update(name, tasks).start(deployment)
        return LOOK_EVERY_S

    def _abandon(self, deployments: Mapping[str, Deployment], tasks: asyncio.TaskGroup) -> None:
        """Abandon the unfinished updates of models that aren't deployed to this device any more.

        One that waits for its turn has no state yet.
        """
        unfinished = {name for name, update in self._updates.items() if update.is_running}
        unfinished |= {it.name for it in self._store.records().values() if it.state not in _AT_REST}
        for name in unfinished.difference(deployments):
            self._update(name, tasks).abandon()

    def _update(self, name: str, tasks: asyncio.TaskGroup) -> UpdateTask:
        if name not in self._updates:
            self._updates[name] = UpdateTask(name, self._agent, self._slot, self._clock, tasks)
        return self._updates[name]

    async def _tune(self) -> None:
        """Tune serving releases while no update is under way."""
        while self._tunes:
            await self._clock.sleep(TUNE_LOOK_EVERY_S)
            for name in list(self._agent.serving):
                await self._slot.run_in_background(partial(self._agent.tune, name))

    async def _follow_store(self) -> None:
        """Serve the releases that another process, such as `edgeml-agent rollback`, has made active.

        A model whose version before still answers holds up no other one.
        """
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._clock.sleep(STORE_LOOK_EVERY_S)
                try:
                    if (now := await asyncio.to_thread(self._store.changes)) == self._changes_seen:
                        continue
                    self._changes_seen, records = now, self._store.records()
                except DeviceError as error:
                    log.failure("store not followed", error)
                    continue
                for name in records:
                    tasks.create_task(self._follow(name))

    async def _load_again(self) -> None:
        """Load active releases that couldn't be loaded: memory was short, say, or a library is back."""
        for delay_s in backoff.delays(RETRY_FIRST_S, RETRY_MAX_S):
            await asyncio.sleep(delay_s)
            for name, record in self._store.records().items():
                if record.active and self._agent.serving.get(name) not in {record.active, record.previous}:
                    await self._follow(name)

    async def _follow(self, name: str) -> None:
        try:
            await self._agent.serve(name)
        except EdgemlError as error:
            log.failure("not loaded", error, model=name)


async def keep_running(
    name: str,
    work: Callable[[], Coroutine[Any, Any, None]],
    clock: Clock,
    *,
    ends_for: type[Exception] | tuple[()] = (),
) -> None:
    """Run a task, and again after a failure: a failing disk costs updates and records, never the answers.

    Args:
        name: for the log.
        work: the task.
        clock: for the pause after a failure.
        ends_for: the error that ends the agent.
    """
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - no defect in a task may end the process that serves
            first = aio.first_error(error)
            if isinstance(first, ends_for):
                raise first from None
            if isinstance(first, EdgemlError):
                log.failure(f"{name}: paused", first)
            else:
                log.defect(f"{name}: paused", error)
        else:
            return
        await clock.sleep(TASK_PAUSE_S)


@contextlib.contextmanager
def _store_errors_logged() -> Iterator[None]:
    """Log an error of the store and go on: a full or failing disk must not keep models from serving."""
    try:
        yield
    except DeviceError as error:
        log.failure("not stored", error)
