"""Recording of devices' reports in the registry. A registry that can't be written delays records, never delivery.

Each device's rows are bounded: one state, one report for each deployment that is signed, and a history of either kind.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final, NoReturn, Protocol

from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml_core.errors import DeviceError
from edgeml_core.messages import DeviceState, Report

#: Messages of devices that aren't recorded yet; the newest of more are lost.
RECORD_QUEUE_MAX: Final = 10_000
#: Messages in one transaction of the registry: each transaction syncs the disk.
RECORD_BATCH_MAX: Final = 256
#: Seconds until the registry is tried again after a failure.
RETRY_S: Final = 5.0
#: Seconds between two events about lost records: a full disk, or a device that floods, must not fill the log.
LOST_EVENT_EVERY_S: Final = 60.0


class Events(Protocol):
    """Receives the events of the service."""

    def event(self, name: str, text: str, **fields: object) -> None:
        """Print or record an event for the operator."""


class Recorder:
    """The queue before a registry.

    Args:
        registry: is written in another thread.
        events: receives failures.
    """

    def __init__(self, registry: Registry, events: Events) -> None:
        self._registry = registry
        self._events = events
        self._waiting: asyncio.Queue[DeviceMessage] = asyncio.Queue(RECORD_QUEUE_MAX)
        self._deployments: frozenset[str] = frozenset()
        self._forgets = False
        self._told_s = -math.inf

    def seen(self) -> set[str]:
        """Return the devices that have a state; none when the registry can't be read. Call it before `run`."""
        try:
            return set(self._registry.devices())
        except DeviceError as error:
            self._lost(error)
            return set()

    def use(self, deployments: frozenset[str]) -> None:
        """Keep reports about these deployments alone."""
        self._forgets |= deployments != self._deployments
        self._deployments = deployments

    def put(self, device: str, message: DeviceState | Report) -> None:
        """Queue a message; a report about a deployment that isn't signed is left out."""
        if isinstance(message, Report) and message.deployment not in self._deployments:
            return
        try:
            self._waiting.put_nowait(DeviceMessage(device=device, message=message, seen_s=time.time()))
        except asyncio.QueueFull:
            self._lost(DeviceError("store-failed", f"more than {RECORD_QUEUE_MAX} messages wait to be recorded"))

    async def run(self) -> NoReturn:
        """Write messages to the registry, as they arrive."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < RECORD_BATCH_MAX and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                if self._forgets:
                    await asyncio.to_thread(self._registry.keep_reports, kept := self._deployments)
                    self._forgets = kept != self._deployments
                await asyncio.to_thread(self._registry.record, batch)
            except DeviceError as error:
                self._lost(error)
                await asyncio.sleep(RETRY_S)

    def _lost(self, error: DeviceError) -> None:
        if time.monotonic() - self._told_s >= LOST_EVENT_EVERY_S:
            self._told_s = time.monotonic()
            _tell(self._events, error)


def _tell(events: Events, error: DeviceError) -> None:
    text = f"reports of devices are lost: {error.message}"
    events.event("record-failed", text, code=error.code, message=error.message, hint=error.hint)
