"""Which chunks to publish now: wants in, wire keys out. Pure: no MQTT, no disk, `now_s` is passed in.

A chunk is published once for all who want it: it waits a moment for the devices that are expected to (`waves` knows
which). One that was sent already is sent again only after a while, together for all who came too late for it. What is
asked in excess is forgotten: devices want again what doesn't come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from edgeml_core import wire_keys
from edgeml_core.errors import RejectedError
from edgeml_origin.cohorts import AnnouncedRelease, SendDeadline, Waves

#: A device's share: 2048 whole chunks a second are 128 MiB/s, more than any board takes.
WANTS_PER_S: Final = 2048.0
WANTS_BURST: Final = 2048.0
#: Chunks promised at one time, to all devices together.
PENDING_MAX: Final = 8192
#: Chunks handed out at a time, so that new wants are seen in between.
BATCH_MAX: Final = 32


class Due(msgspec.Struct, frozen=True):
    """A chunk to publish now, and the devices that want it."""

    key: str
    wanters: frozenset[str]


class _PendingChunk:
    """A chunk that is wanted and not sent yet."""

    def __init__(self, terms: SendDeadline) -> None:
        self.terms = terms
        self.wanters: set[str] = set()

    def is_due(self, now_s: float) -> bool:
        awaited = self.terms.awaited
        return self.terms.due_s <= now_s or (awaited is not None and awaited <= self.wanters)


class Demand:
    """What is wanted and not sent yet."""

    def __init__(self) -> None:
        self._devices: frozenset[str] = frozenset()
        self._waves = Waves()
        self._promises: dict[str, _PendingChunk] = {}
        self._shares: dict[str, tuple[float, float]] = {}

    def allow(self, *, releases: Sequence[AnnouncedRelease], devices: frozenset[str]) -> None:
        """Answer for these only: chunks that a signed manifest lists, devices that are enrolled."""
        self._devices = devices
        self._waves.allow(releases, devices)
        self._promises = {key: promise for key, promise in self._promises.items() if self._is_listed(key)}
        self._shares = {device: share for device, share in self._shares.items() if device in devices}

    def want(self, device: str, keys: Iterable[str], now_s: float) -> None:
        """Note what a device wants, as far as it is allowed and the device's share goes."""
        if device not in self._devices:
            return
        wanted = [key for key in keys if self._is_listed(key)]
        for key in wanted[: self._draw(device, len(wanted), now_s)]:
            if key not in self._promises and len(self._promises) >= PENDING_MAX:
                continue
            terms = self._waves.on_want(device, key, now_s)
            promise = self._promises.setdefault(key, _PendingChunk(terms))
            promise.terms = promise.terms.joined(terms)
            promise.wanters.add(device)

    def take(self, now_s: float) -> list[Due]:
        """What to publish now, at most `BATCH_MAX`; it counts as sent."""
        keys = [key for key, promise in self._promises.items() if promise.is_due(now_s)][:BATCH_MAX]
        due: list[Due] = []
        for key in keys:
            promise = self._promises.pop(key)
            wanters = frozenset(promise.wanters)
            self._waves.send(key, wanters, promise.terms, now_s)
            due.append(Due(key, wanters))
        return due

    def wait_s(self, now_s: float) -> float | None:
        """How long until something is due; None while nothing is wanted."""
        if not self._promises:
            return None
        if any(promise.is_due(now_s) for promise in self._promises.values()):
            return 0.0
        return min(promise.terms.due_s for promise in self._promises.values()) - now_s

    def fronts(self) -> dict[str, str]:
        """Where the waves of releases are: see `Waves.fronts`."""
        return self._waves.fronts()

    def _is_listed(self, key: str) -> bool:
        """Whether every chunk that a key names is listed."""
        try:
            return self._waves.lists(wire_keys.ids(key))
        except RejectedError:
            return False

    def _draw(self, device: str, count: int, now_s: float) -> int:
        """Draw from the device's token bucket: how many of `count` it may have."""
        left, at_s = self._shares.get(device, (WANTS_BURST, now_s))
        left = min(WANTS_BURST, left + (now_s - at_s) * WANTS_PER_S)
        granted = min(count, int(left))
        self._shares[device] = (left - granted, now_s)
        return granted
