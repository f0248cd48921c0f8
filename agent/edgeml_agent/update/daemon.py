"""When the agent does what: serve at once, follow the fleet and the store, try again, stop in order.

One update at a time goes its way on a device, since link and memory are shared. A newer wish for a model interrupts the
one before. What a step of an update is, is `agent`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from edgeml_agent import log
from edgeml_agent.ports import Clock, Link
from edgeml_agent.probe.remote_calls import Calls
from edgeml_agent.serve.metrics import Metric
from edgeml_agent.store import locks
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.update import metrics as update_metrics
from edgeml_agent.update.agent import Agent
from edgeml_agent.update.reporter import Reporter
from edgeml_agent.update.state_machine import Machine
from edgeml_core.desired import Deployment
from edgeml_core.errors import DeviceError, EdgemlError, TransportError
from edgeml_core.lifecycle import State
from edgeml_io import backoff

#: A new version is on trial for so long by the clock, or in one run: unclean restarts until then are laid to it.
CRASH_WINDOW_S: Final = 600.0
#: November 2023. A clock that says less was never set, and what it said then is no time.
CLOCK_SET_S: Final = 1_700_000_000.0
CRASHES_MAX: Final = 3
#: Without any announcement the signed files are looked at so often: they may have expired.
LOOK_EVERY_S: Final = 600.0
STORE_LOOK_EVERY_S: Final = 1.0
#: Drift is slow. A state is retained by the broker: a quantity that wavers about a bound may not rewrite it all day.
DRIFT_TOLD_EVERY_S: Final = 600.0
CLOCK_LOOK_EVERY_S: Final = 60.0
TUNE_LOOK_EVERY_S: Final = 5.0
RETRY_FIRST_S: Final = 2.0
RETRY_MAX_S: Final = 300.0
ATTEMPTS_MAX: Final = 8
#: What an update came to for good: it is not gone for again but for another deployment.
_SETTLED: Final = frozenset({State.ACTIVE, State.REJECTED, State.ROLLED_BACK})
#: What the release isn't to blame for, and this machine may get over: it is gone for again at the next look.
_PASSING: Final = frozenset({"disk-full", "memory-short", "store-failed"})
_AT_REST: Final = _SETTLED | {State.IDLE}


class Daemon:
    """The agent as it runs on a device.

    Args:
        folder: the store's, where the lock lies.
        tunes: whether to find out how models run best here.
    """

    def __init__(
        self,
        agent: Agent,
        link: Link,
        store: Store,
        telling: Reporter,
        *,
        calls: Calls,
        clock: Clock,
        folder: Path,
        tunes: bool = False,
    ) -> None:
        self._agent = agent
        self._link = link
        self._calls = calls
        self._store = store
        self._telling = telling
        self._clock = clock
        self._tunes = tunes
        self._tuning: asyncio.Task[None] | None = None
        self._lock_path = folder / locks.UPDATE
        self._one_at_a_time = asyncio.Lock()
        self._updates: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._delays = backoff.delays(RETRY_FIRST_S, RETRY_MAX_S)
        self.ready = False

    async def run(self) -> None:
        """Serve and follow until cancelled."""
        await self.start_serving()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._link.run())
                tasks.create_task(self._follow_fleet(tasks))
                tasks.create_task(self._follow_store())
                tasks.create_task(self._prove())
                tasks.create_task(self._tune())
                tasks.create_task(self._tell_drift())
                tasks.create_task(self._calls.run())
        finally:
            # An error of ours is no crash: only what kills the process leaves the mark of an unclean run.
            with _as_far_as_the_disk_lets():
                self._store.end_run()

    def metrics(self) -> Iterator[Metric]:
        """Where updates stand, for `/metrics`."""
        return update_metrics.of(self._store, self._telling)

    async def start_serving(self) -> None:
        """Serve what served last, before anything else, unless the agent keeps crashing since its activation."""
        clean = True
        with _as_far_as_the_disk_lets():
            clean = self._store.begin_run()
        for record in self._store.records().values():
            with _as_far_as_the_disk_lets():
                await Machine(self._store, record.name, self._telling.moved).interrupt()
                if not clean:
                    self._count_crash(record)
            try:
                await self._agent.serve(record.name)
            except EdgemlError as error:
                log.failure("not serving", error, model=record.name)
        self._telling.state()
        self.ready = True

    def _count_crash(self, record: ModelRecord) -> None:
        is_clock_right = CLOCK_SET_S < record.activated_at < self._clock.now()
        is_long_ago = is_clock_right and self._clock.now() - record.activated_at >= CRASH_WINDOW_S
        if not record.is_on_trial or is_long_ago or not record.previous:
            return
        if self._store.count_unclean(record.name) >= CRASHES_MAX:
            message = f"{CRASHES_MAX} unclean restarts within {CRASH_WINDOW_S:.0f} s of activating {record.version}"
            self._store.roll_back(record.name, "crash-loop", message)

    async def _prove(self) -> None:
        """End a version's trial when it has served for so long in one run, whatever the clock says."""
        while True:
            activated = {record.name: record.activated_at for record in self._store.records().values()}
            await asyncio.sleep(CRASH_WINDOW_S)
            for name, activated_at in activated.items():
                await asyncio.to_thread(self._store.end_trial, name, activated_at)

    async def _tell_drift(self) -> None:
        while True:
            await asyncio.sleep(DRIFT_TOLD_EVERY_S)
            self._telling.drift()

    async def _follow_fleet(self, tasks: asyncio.TaskGroup) -> None:
        wait_s = LOOK_EVERY_S
        while True:
            # Not `wait_for`: cancelled as an announcement comes, that one would go on.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._link.announced()
            wait_s = await self._look(tasks)

    async def _look(self, tasks: asyncio.TaskGroup) -> float:
        """See what is wanted, and go for it; how long to wait until the next look."""
        try:
            wishes = await self._agent.desired()
        except TransportError as error:
            log.failure("no desired state", error)
            return next(self._delays)
        except EdgemlError as error:
            self._telling.refused(error)
            return LOOK_EVERY_S
        except Exception as error:  # noqa: BLE001 - whatever it is, it isn't worth what serves
            defect = DeviceError("internal", f"the agent failed: {error}", "its log has the details")
            log.defect("no desired state", error)
            self._telling.refused(defect)
            return LOOK_EVERY_S
        self._delays = backoff.delays(RETRY_FIRST_S, RETRY_MAX_S)
        self._telling.trust_restored()
        for record in self._store.records().values():
            if record.name not in wishes and record.state not in _AT_REST:
                self._leave(record.name, tasks)
        for wish in wishes.values():
            self._start_update(wish, tasks)
        return LOOK_EVERY_S

    def _start_update(self, wish: Deployment, tasks: asyncio.TaskGroup) -> None:
        deployment, before = self._updates.get(wish.name, ("", None))
        if before is not None and not before.done():
            if deployment == _aim(wish):
                return
            before.cancel()
        elif self._is_settled(wish):
            return
        self._updates[wish.name] = (_aim(wish), tasks.create_task(self._run_update(wish, before)))

    def _leave(self, name: str, tasks: asyncio.TaskGroup) -> None:
        """Stop the update of a model that is wanted no longer."""
        deployment, before = self._updates.get(name, ("", None))
        if before is None or before.done() or deployment:
            if before is not None:
                before.cancel()
            self._updates[name] = ("", tasks.create_task(self._withdraw(name, before)))

    async def _withdraw(self, name: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        with await self._undisturbed(), _as_far_as_the_disk_lets():
            await Machine(self._store, name, self._telling.moved).withdraw()

    def _is_settled(self, wish: Deployment) -> bool:
        record = self._store.record(wish.name)
        return record.deployment == wish.id and record.state in _SETTLED and record.code not in _PASSING

    async def _run_update(self, wish: Deployment, before: asyncio.Task[None] | None) -> None:
        """Attempts, until one succeeds, is refused or fails here.

        A bad road is tried again, with a bound. What is too early goes on when its time has come: in between other
        models, and `edgeml-agent install`, have their turn.
        """
        if before is not None:
            await asyncio.wait([before])
        delays = islice(backoff.delays(RETRY_FIRST_S, RETRY_MAX_S), ATTEMPTS_MAX - 1)
        while True:
            if self._tuning is not None:
                self._tuning.cancel()
            try:
                async with self._one_at_a_time:
                    with await self._undisturbed():
                        again_s = await self._agent.attempt(wish)
            except TransportError:
                if (delay_s := next(delays, None)) is None:
                    return
                await self._clock.sleep(delay_s)
            except EdgemlError:
                return
            else:
                if not again_s:
                    return
                await self._until(again_s)

    async def _until(self, time_s: float) -> None:
        """Wait for a time of day. The clock is looked at now and then: it may be set meanwhile."""
        while (left_s := time_s - self._clock.now()) > 0:
            await self._clock.sleep(min(left_s, CLOCK_LOOK_EVERY_S))

    async def _undisturbed(self) -> BinaryIO:
        """The lock that keeps `edgeml-agent install` out."""
        while (lock := locks.take(self._lock_path)) is None:
            await self._clock.sleep(STORE_LOOK_EVERY_S)
        return lock

    async def _tune(self) -> None:
        """See how what serves runs best here, when no update is under way; one that comes doesn't wait for it."""
        while self._tunes:
            await self._clock.sleep(TUNE_LOOK_EVERY_S)
            for name in list(self._agent.serving):
                if not self._one_at_a_time.locked():
                    self._tuning = asyncio.create_task(self._agent.tune(name))
                    await _ended(self._tuning)

    async def _follow_store(self) -> None:
        """Serve what another process, such as `edgeml-agent rollback`, has put into the store."""
        seen = self._store.changes()
        while True:
            await self._clock.sleep(STORE_LOOK_EVERY_S)
            try:
                if (now := await asyncio.to_thread(self._store.changes)) == seen:
                    continue
                seen = now
                for name in self._store.records():
                    await self._agent.serve(name)
            except DeviceError as error:
                log.failure("store not followed", error)


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for the end of a task that others may cancel; it ends with whoever waits."""
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
    if not task.cancelled() and isinstance(error := task.exception(), Exception):
        log.defect("not tuned", error)


def _aim(wish: Deployment) -> str:
    """What an update under way goes for; a larger percentage is nothing else."""
    return f"{wish.id} {wish.activate_after or ''}"


@contextlib.contextmanager
def _as_far_as_the_disk_lets() -> Iterator[None]:
    """What can't be remembered, since the disk is full or fails, is no reason not to serve."""
    try:
        yield
    except DeviceError as error:
        log.failure("not remembered", error)
