"""Recording of devices' reports in the registry. A registry that can't be written delays records, never delivery.

Each device's rows are bounded: one state, one report for each deployment that is signed, and a history of either kind.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from edgeml.fleet.leadership import Leadership
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml_core.errors import DeviceError
from edgeml_core.messages import DeviceState, Report

#: Messages of devices that aren't recorded yet. The broker holds more: it sends some dozen that aren't acknowledged.
RECORD_QUEUE_MAX: Final = 10_000
#: Those of one device: it has a state and a report for each of its models, and floods nobody else's share.
DEVICE_QUEUE_MAX: Final = 100
#: Messages in one transaction of the registry: each one costs a round trip, and perhaps a sync of the disk.
RECORD_BATCH_MAX: Final = 1000
#: Seconds until the registry is tried again after a failure.
RETRY_S: Final = 5.0
#: Seconds between two events about failures: a full disk, or a device that floods, must not fill the log.
REPORTED_EVERY_S: Final = 60.0


class Events(Protocol):
    """Receives the events of the service."""

    def event(self, name: str, text: str, **fields: object) -> None:
        """Print or record an event for the operator."""


class Recorder:
    """The queue before a registry. Messages that it can't write wait, and are written when it can.

    Args:
        registry: is written in another thread.
        leadership: messages that can't be written are dropped when another host leads, which receives them again.
        events: receives failures.
    """

    def __init__(self, registry: Registry, leadership: Leadership, events: Events) -> None:
        self._registry = registry
        self._leadership = leadership
        self._events = events
        #: Messages, and the callbacks of those who wait until all before are recorded.
        self._waiting: asyncio.Queue[DeviceMessage | Callable[[], None]] = asyncio.Queue()
        self._messages = 0
        self._of_device: Counter[str] = Counter()
        self._deployments: frozenset[str] = frozenset()
        self._devices: frozenset[str] = frozenset()
        #: Whether these are of the repository as it is, and those for which others were forgotten.
        self._is_current = True
        self._kept: tuple[frozenset[str], frozenset[str]] | None = None
        self._reported_s = -math.inf

    def seen(self) -> set[str]:
        """Return the devices that have a state; none when the registry can't be read. Call it before `run`."""
        try:
            return self._registry.ids()
        except DeviceError as error:
            self._report(error)
            return set()

    def use(self, *, deployments: frozenset[str], devices: frozenset[str]) -> None:
        """Keep reports about these deployments, and rows of these devices alone."""
        self._deployments, self._devices, self._is_current = deployments, devices, True

    def await_use(self) -> None:
        """Forget nothing until the next `use`: the repository may have changed while this host was away."""
        self._is_current = False

    def put(self, device: str, message: DeviceState | Report, *, is_acknowledged: bool = True) -> None:
        """Queue a message; a report about a deployment that isn't signed is left out.

        Args:
            device: its sender, which may have `DEVICE_QUEUE_MAX` in the queue.
            message: its content.
            is_acknowledged: the broker holds more of these back; others fill half of the queue at most.
        """
        if isinstance(message, Report) and message.deployment not in self._deployments:
            return
        if self._of_device[device] >= DEVICE_QUEUE_MAX:
            text = f"{DEVICE_QUEUE_MAX} messages of {device} wait, the most of one device: its newest are lost"
            self._report(DeviceError("store-failed", text))
            return
        if self._messages >= (RECORD_QUEUE_MAX if is_acknowledged else RECORD_QUEUE_MAX // 2):
            self._report(DeviceError("store-failed", f"{self._messages} messages wait: the newest are lost"))
            return
        self._messages += 1
        self._of_device[device] += 1
        self._waiting.put_nowait(DeviceMessage(device=device, message=message, seen_s=time.time()))

    def after(self, recorded: Callable[[], None]) -> None:
        """Call a function once all messages that were put before are recorded; at once where none waits."""
        if self._messages:
            self._waiting.put_nowait(recorded)
        else:
            recorded()

    async def run(self) -> NoReturn:
        """Write messages to the registry, as they arrive."""
        while True:
            batch, recorded = await self._batch()
            while not await self._is_written(batch):
                if not self._leadership.is_leader:
                    recorded.clear()
                    break
                await asyncio.sleep(RETRY_S)
            self._messages -= len(batch)
            self._of_device -= Counter(it.device for it in batch)
            for call in recorded:
                call()

    async def _batch(self) -> tuple[list[DeviceMessage], list[Callable[[], None]]]:
        """Return the next messages, and the callbacks that follow them."""
        batch: list[DeviceMessage] = []
        recorded: list[Callable[[], None]] = []
        while not (batch or recorded) or (len(batch) < RECORD_BATCH_MAX and not self._waiting.empty()):
            item = await self._waiting.get()
            if isinstance(item, DeviceMessage):
                batch.append(item)
            else:
                recorded.append(item)
        return batch, recorded

    async def _is_written(self, batch: list[DeviceMessage]) -> bool:
        try:
            check, kept = self._leadership.check, (self._deployments, self._devices)
            if self._is_current and kept != self._kept:
                await asyncio.to_thread(self._registry.keep_reports, kept[0], check)
                await asyncio.to_thread(self._registry.keep_devices, kept[1], check)
                self._kept = kept
            await asyncio.to_thread(self._registry.record, batch, check)
        except DeviceError as error:
            self._report(error)
            return False
        return True

    def _report(self, error: DeviceError) -> None:
        if time.monotonic() - self._reported_s >= REPORTED_EVERY_S:
            self._reported_s = time.monotonic()
            text = f"reports of devices can't be recorded now: {error.message}"
            self._events.event("record-failed", text, code=error.code, message=error.message, hint=error.hint)
