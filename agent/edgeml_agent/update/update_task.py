"""The update of one model as an asyncio task: started, cancelled, retried, abandoned.

At most one task runs for a model. A newer deployment cancels the task before it, and waits for the update slot until
that one has ended. `Agent` has the steps of an attempt; `daemon` finds the deployments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from itertools import islice
from typing import Any, Final

from edgeml_agent import log
from edgeml_agent.ports import Clock
from edgeml_agent.update.agent import Agent
from edgeml_agent.update.slot import UpdateSlot
from edgeml_core.desired import Deployment
from edgeml_core.errors import DeviceError, EdgemlError, TransportError
from edgeml_io import backoff

#: Seconds before the first retry after a transport error, and the longest pause; jittered between the two.
RETRY_FIRST_S: Final = 2.0
RETRY_MAX_S: Final = 300.0
#: Attempts per deployment and announcement: the pauses between them add up to about four minutes.
ATTEMPTS_MAX: Final = 8
#: Seconds between two looks at the clock while an update is deferred: the clock may be set meanwhile.
CLOCK_LOOK_EVERY_S: Final = 60.0

_Goal = tuple[str, datetime | None]


class UpdateTask:
    """The update of one model.

    Args:
        tasks: the group that the tasks belong to.
    """

    def __init__(self, name: str, agent: Agent, slot: UpdateSlot, clock: Clock, tasks: asyncio.TaskGroup) -> None:
        self._name = name
        self._agent = agent
        self._slot = slot
        self._clock = clock
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        #: The deployment that the task installs; None while it abandons one.
        self._goal: _Goal | None = None

    @property
    def is_running(self) -> bool:
        """Whether the task has yet to end."""
        return self._task is not None and not self._task.done()

    def start(self, deployment: Deployment) -> None:
        """Install a deployment, unless it is settled or its task runs already. Another task is cancelled."""
        goal = _goal(deployment)
        if self.is_running:
            if goal == self._goal:
                return
        elif self._agent.is_settled(deployment):
            return
        self._replace(goal, self._install(deployment))

    def abandon(self) -> None:
        """Cancel the update and record that its deployment is gone."""
        if not self.is_running or self._goal is not None:
            self._replace(None, self._abandon())

    def cancel(self) -> None:
        """Cancel the task; an update under way is recorded as interrupted."""
        if self._task is not None:
            self._task.cancel()

    def _replace(self, goal: _Goal | None, work: Coroutine[Any, Any, None]) -> None:
        self.cancel()
        self._goal = goal
        self._task = self._tasks.create_task(work)

    async def _install(self, deployment: Deployment) -> None:
        """Attempt the update until it succeeds, is rejected, or fails on this device.

        Transport errors are retried up to `ATTEMPTS_MAX`. A deferred update releases the slot until its time. A version
        that the one before has replaced may write for minutes: only its own model's next update waits for it.
        """
        delays = islice(backoff.delays(RETRY_FIRST_S, RETRY_MAX_S), ATTEMPTS_MAX - 1)
        while True:
            try:
                await self._agent.retired(self._name)
                async with self._slot.hold():
                    if self._agent.is_settled(deployment):
                        return  # by `edgeml-agent install`, which held the slot
                    resume_s = await self._agent.attempt(deployment)
            except TransportError:
                if (delay_s := next(delays, None)) is None:
                    return
                await self._clock.sleep(delay_s)
            except EdgemlError:
                return
            else:
                if resume_s is None:
                    return
                await self._sleep_until(resume_s)

    async def _abandon(self) -> None:
        try:
            async with self._slot.hold():
                await self._agent.abandon(self._name)
        except DeviceError as error:
            log.failure("abandoned update not stored", error, model=self._name)

    async def _sleep_until(self, time_s: float) -> None:
        """Sleep until a time. A clock that is set back ends it: the time was computed from a wrong one."""
        seen_s = self._clock.now()
        while seen_s <= (now_s := self._clock.now()) < time_s:
            seen_s = now_s
            await self._clock.sleep(min(time_s - now_s, CLOCK_LOOK_EVERY_S))


def _goal(deployment: Deployment) -> _Goal:
    """Return the parts of a deployment whose change restarts a running update; a larger percentage doesn't."""
    return deployment.id, deployment.activate_after
