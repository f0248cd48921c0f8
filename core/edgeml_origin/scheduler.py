"""The scheduler: wants in, the wire keys to publish now out. Pure: no MQTT, no disk, the caller passes `now_s`.

A chunk is published once for all devices that want it: it waits a moment for those that are expected to (`cohorts`
knows which). Wants beyond the bounds are dropped: a device asks again for a chunk that doesn't arrive.

Devices share the origin fairly, by cost: the next chunk is one of the device that has been served least. A device that
asks for much, or for what is dear, waits longer itself and delays the others by one chunk at most. This is start-time
fair queueing (Goyal, Vin and Cheng, 1996): a device's turn comes at the virtual time at which its last chunk was paid.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from edgeml_core import wire_keys
from edgeml_core.errors import RejectedError
from edgeml_origin.cohorts import AnnouncedRelease, Cohorts, SendDeadline

#: Chunks pending for all devices together: 512 MiB, the windows of 128 devices that share none.
PENDING_MAX: Final = 8192
#: Chunks pending for one device: the windows of a relay's four devices that share none.
DEVICE_PENDING_MAX: Final = 256
#: The cost of a delta in whole chunks: it is computed in tens of ms, while a whole chunk is read in one or two.
DELTA_COST: Final = 16.0
#: Chunks handed out at a time, so that the origin sees new wants in between.
BATCH_MAX: Final = 32


class Due(msgspec.Struct, frozen=True):
    """A chunk to publish now, and the devices that want it."""

    key: str
    wanters: frozenset[str]


class _PendingChunk:
    """A chunk that is wanted and not published yet."""

    def __init__(self, deadline: SendDeadline) -> None:
        self.deadline = deadline
        #: When each device asked for it first.
        self.wanted_s: dict[str, float] = {}

    @property
    def due_s(self) -> float:
        return self.deadline.at_s(self.wanted_s.keys())


class _FairTurns:
    """The order of devices: the one that has been served least comes first."""

    def __init__(self) -> None:
        self._now = 0.0
        #: The virtual time at which each device's turn comes.
        self._paid_until: dict[str, float] = {}

    def keep(self, devices: frozenset[str]) -> None:
        self._paid_until = {device: paid for device, paid in self._paid_until.items() if device in devices}

    def pick(self, queues: Mapping[str, deque[str]], count: int) -> list[str]:
        """Take up to `count` keys from the queues, which it empties."""
        turns = [(max(self._now, self._paid_until.get(device, 0.0)), device) for device in queues]
        heapq.heapify(turns)
        picked: list[str] = []
        while turns and len(picked) < count:
            self._now, device = turns[0]
            picked.append(key := queues[device].popleft())
            self._paid_until[device] = self._now + (DELTA_COST if wire_keys.has_base(key) else 1.0)
            if queues[device]:
                heapq.heapreplace(turns, (self._paid_until[device], device))
            else:
                heapq.heappop(turns)
        return picked


class Scheduler:
    """The pending chunks, and the devices' turns."""

    def __init__(self) -> None:
        self._devices: frozenset[str] = frozenset()
        self._cohorts = Cohorts()
        self._pending: dict[str, _PendingChunk] = {}
        #: The number of pending chunks that each device wants.
        self._pending_of: Counter[str] = Counter()
        self._turns = _FairTurns()

    def allow(self, *, releases: Sequence[AnnouncedRelease], devices: frozenset[str]) -> None:
        """Accept wants for these only: chunks that a signed manifest lists, from devices that are enrolled."""
        self._devices = devices
        self._cohorts.allow(releases, devices)
        self._pending = {key: chunk for key, chunk in self._pending.items() if self._is_listed(key)}
        self._pending_of = Counter(device for chunk in self._pending.values() for device in chunk.wanted_s)
        self._turns.keep(devices)

    def want(self, device: str, keys: Iterable[str], now_s: float) -> None:
        """Note the wants of a device, as far as they are allowed and the bounds leave room."""
        if device not in self._devices:
            return
        admitted = self._admitted(device, [key for key in keys if self._is_listed(key)])
        for key, deadline in self._cohorts.on_want(device, admitted, now_s).items():
            chunk = self._pending.setdefault(key, _PendingChunk(deadline))
            chunk.deadline = chunk.deadline.joined(deadline)
            if device not in chunk.wanted_s:
                chunk.wanted_s[device] = now_s
                self._pending_of[device] += 1

    def take(self, now_s: float) -> list[Due]:
        """Return the chunks to publish now, at most `BATCH_MAX`, in the order of the wants; they count as sent."""
        queues: dict[str, deque[str]] = {}
        for key, chunk in self._pending.items():
            if chunk.due_s <= now_s:
                queues.setdefault(next(iter(chunk.wanted_s)), deque()).append(key)
        picked = frozenset(self._turns.pick(queues, BATCH_MAX))
        return [self._sent(key, now_s) for key in [key for key in self._pending if key in picked]]

    def _sent(self, key: str, now_s: float) -> Due:
        chunk = self._pending.pop(key)
        self._pending_of.subtract(chunk.wanted_s.keys())
        self._cohorts.on_sent(key, chunk.wanted_s, chunk.deadline, now_s)
        return Due(key, frozenset(chunk.wanted_s))

    def wait_s(self, now_s: float) -> float | None:
        """Return the seconds until a chunk is due; None while none is pending."""
        if not self._pending:
            return None
        return max(0.0, min(chunk.due_s for chunk in self._pending.values()) - now_s)

    def take_positions(self) -> dict[str, str]:
        """See `Cohorts.take_positions`."""
        return self._cohorts.take_positions()

    def _admitted(self, device: str, keys: Iterable[str]) -> list[str]:
        """Return the keys for which the bounds leave room."""
        free, free_of = PENDING_MAX - len(self._pending), DEVICE_PENDING_MAX - self._pending_of[device]
        admitted: list[str] = []
        for key in keys:
            chunk = self._pending.get(key)
            is_first, is_new = chunk is None, chunk is None or device not in chunk.wanted_s
            if free >= is_first and free_of >= is_new:
                free, free_of = free - is_first, free_of - is_new
                admitted.append(key)
        return admitted

    def _is_listed(self, key: str) -> bool:
        """Return whether every chunk that a key names is listed."""
        try:
            return self._cohorts.lists(wire_keys.ids(key))
        except RejectedError:
            return False
