"""Which chunks to publish now: wants in, wire keys out. Pure: no MQTT, no disk, `now_s` is passed in.

Wants are gathered for a moment, so that devices which start together share one publication of each chunk. A chunk that
was just sent is sent again only after a while: a want that crossed its publication on the way costs nothing more, one
that came too late is still answered. What is asked in excess is forgotten: devices want again what doesn't come.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edgeml_core import wirekeys
from edgeml_core.errors import RejectedError

#: How long the first want for a chunk waits for others.
GATHER_S: Final = 0.05
#: How soon the same chunk may be sent again.
RESEND_AFTER_S: Final = 0.25
#: A device's share: 512 chunks a second are 32 MiB/s, more than the boards' disks take.
WANTS_PER_S: Final = 512.0
WANTS_BURST: Final = 1024.0
#: Chunks promised at one time, by all devices together.
PENDING_MAX: Final = 8192
#: Chunks handed out at a time (1 MiB), so that new wants are seen in between.
BATCH_MAX: Final = 16


class Demand:
    """What is wanted and not sent yet."""

    def __init__(self) -> None:
        self._ids: frozenset[str] = frozenset()
        self._devices: frozenset[str] = frozenset()
        self._due_s: dict[str, float] = {}
        self._sent_s: dict[str, float] = {}
        self._shares: dict[str, tuple[float, float]] = {}

    def allow(self, *, ids: frozenset[str], devices: frozenset[str]) -> None:
        """Answer for these only: ids of chunks that a signed manifest lists, devices that are enrolled."""
        self._ids, self._devices = ids, devices
        self._due_s = {key: due_s for key, due_s in self._due_s.items() if self._is_listed(key)}
        self._shares = {device: share for device, share in self._shares.items() if device in devices}

    def want(self, device: str, keys: Iterable[str], now_s: float) -> None:
        """Note what a device wants, as far as it is allowed and the device's share goes."""
        if device not in self._devices:
            return
        wanted = [key for key in keys if self._is_listed(key)]
        for key in wanted[: self._draw(device, len(wanted), now_s)]:
            if len(self._due_s) >= PENDING_MAX:
                return
            due_s = max(now_s + GATHER_S, self._sent_s.get(key, -RESEND_AFTER_S) + RESEND_AFTER_S)
            self._due_s.setdefault(key, due_s)

    def take(self, now_s: float) -> list[str]:
        """The keys to publish now, at most `BATCH_MAX`; they count as sent."""
        due = [key for key, due_s in self._due_s.items() if due_s <= now_s][:BATCH_MAX]
        self._sent_s = {key: at_s for key, at_s in self._sent_s.items() if now_s - at_s < RESEND_AFTER_S}
        for key in due:
            del self._due_s[key]
            self._sent_s[key] = now_s
        return due

    def wait_s(self, now_s: float) -> float | None:
        """How long until something is due; None while nothing is wanted."""
        return max(0.0, min(self._due_s.values()) - now_s) if self._due_s else None

    def _is_listed(self, key: str) -> bool:
        """Whether every chunk that a key names is listed."""
        try:
            return self._ids.issuperset(wirekeys.ids(key))
        except RejectedError:
            return False

    def _draw(self, device: str, count: int, now_s: float) -> int:
        """Draw from the device's token bucket: how many of `count` it may have."""
        left, at_s = self._shares.get(device, (WANTS_BURST, now_s))
        left = min(WANTS_BURST, left + (now_s - at_s) * WANTS_PER_S)
        granted = min(count, int(left))
        self._shares[device] = (left - granted, now_s)
        return granted
