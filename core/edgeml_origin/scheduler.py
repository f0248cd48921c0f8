"""The scheduler: wants in, the wire keys to publish now out. Pure: no MQTT, no disk, the caller passes `now_s`.

A chunk is published once for all devices that want it: it waits a moment for those that are expected to (`cohorts`
knows which). Wants beyond the bounds are dropped: a device asks again for a chunk that doesn't arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from edgeml_core import wire_keys
from edgeml_core.errors import RejectedError
from edgeml_origin.cohorts import AnnouncedRelease, Cohorts, SendDeadline

#: Wants of one device a second: 2048 whole chunks are 128 MiB, more than any board stores.
WANTS_PER_S: Final = 2048.0
#: Wants of one device at once: one second's.
WANTS_BURST: Final = 2048.0
#: Chunks pending for all devices together: 512 MiB, the windows of 128 devices that share none.
PENDING_MAX: Final = 8192
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
        self.wanters: set[str] = set()

    def is_due(self, now_s: float) -> bool:
        awaited = self.deadline.awaited
        return self.deadline.due_s <= now_s or (awaited is not None and awaited <= self.wanters)


class Scheduler:
    """The pending chunks, and each device's token bucket."""

    def __init__(self) -> None:
        self._devices: frozenset[str] = frozenset()
        self._cohorts = Cohorts()
        self._pending: dict[str, _PendingChunk] = {}
        #: Tokens left, and when they were counted.
        self._tokens: dict[str, tuple[float, float]] = {}

    def allow(self, *, releases: Sequence[AnnouncedRelease], devices: frozenset[str]) -> None:
        """Accept wants for these only: chunks that a signed manifest lists, from devices that are enrolled."""
        self._devices = devices
        self._cohorts.allow(releases, devices)
        self._pending = {key: chunk for key, chunk in self._pending.items() if self._is_listed(key)}
        self._tokens = {device: tokens for device, tokens in self._tokens.items() if device in devices}

    def want(self, device: str, keys: Iterable[str], now_s: float) -> None:
        """Note the wants of a device, as far as they are allowed and its tokens last."""
        if device not in self._devices:
            return
        wanted = [key for key in keys if self._is_listed(key)]
        for key in wanted[: self._draw(device, len(wanted), now_s)]:
            if key not in self._pending and len(self._pending) >= PENDING_MAX:
                continue
            deadline = self._cohorts.on_want(device, key, now_s)
            chunk = self._pending.setdefault(key, _PendingChunk(deadline))
            chunk.deadline = chunk.deadline.joined(deadline)
            chunk.wanters.add(device)

    def take(self, now_s: float) -> list[Due]:
        """Return the chunks to publish now, at most `BATCH_MAX`; they count as sent."""
        keys = [key for key, chunk in self._pending.items() if chunk.is_due(now_s)][:BATCH_MAX]
        due: list[Due] = []
        for key in keys:
            chunk = self._pending.pop(key)
            wanters = frozenset(chunk.wanters)
            self._cohorts.on_sent(key, wanters, chunk.deadline, now_s)
            due.append(Due(key, wanters))
        return due

    def wait_s(self, now_s: float) -> float | None:
        """Return the seconds until a chunk is due; None while none is pending."""
        if not self._pending:
            return None
        if any(chunk.is_due(now_s) for chunk in self._pending.values()):
            return 0.0
        return min(chunk.deadline.due_s for chunk in self._pending.values()) - now_s

    def take_positions(self) -> dict[str, str]:
        """See `Cohorts.take_positions`."""
        return self._cohorts.take_positions()

    def _is_listed(self, key: str) -> bool:
        """Return whether every chunk that a key names is listed."""
        try:
            return self._cohorts.lists(wire_keys.ids(key))
        except RejectedError:
            return False

    def _draw(self, device: str, count: int, now_s: float) -> int:
        """Draw up to `count` tokens from the device's bucket, and return their number."""
        left, counted_s = self._tokens.get(device, (WANTS_BURST, now_s))
        left = min(WANTS_BURST, left + (now_s - counted_s) * WANTS_PER_S)
        granted = min(count, int(left))
        self._tokens[device] = (left - granted, now_s)
        return granted
