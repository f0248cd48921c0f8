"""Who goes together: which devices are expected to want the next chunk, as far as the last ones tell.

A release that nothing was sent of lately is new to all the devices that are to have it, and they are expected. From
then on a device is expected by those with which it shared its last chunk. Who lets the others wait isn't waited for
again for a while: a slow device costs the others one short wait now and then. Pure: `now_s` is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from edgeml_core import wirekeys

#: How long the first want for a chunk waits for the other devices that are expected to want it.
GATHER_S: Final = 0.05
#: The same for the first chunks of a release: devices hear of it, look at what is signed, and want it within seconds.
START_GATHER_S: Final = 3.0
#: How soon a chunk may be sent again, to those that came too late for it.
RESEND_AFTER_S: Final = 0.25
#: A wave is over when nothing of its release was sent for so long.
REST_S: Final = 30.0
#: A device that wanted something of a release so lately is under way with it.
ACTIVE_S: Final = 2.0
#: For so long nobody waits for a device that was late.
PATIENCE_S: Final = 5.0
#: Keys of one release that are remembered as sent: 8 GB of whole chunks.
SENT_MAX: Final = 131_072


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is announced.

    Args:
        release: the id of its manifest, `wirekeys.chunk_id` of the digest.
        ids: of its chunks.
        devices: those that may come to want it.
    """

    release: str
    ids: frozenset[str]
    devices: frozenset[str] = frozenset()


class Terms(msgspec.Struct, frozen=True):
    """When a chunk is due: as soon as all of `awaited` want it, if not None; at `due_s` at the latest."""

    awaited: frozenset[str] | None
    due_s: float


class _Wave:
    """One release under way."""

    def __init__(self, listed: Listed) -> None:
        self.listed = listed
        self.last_s: float | None = None
        self.sent_s: dict[str, float] = {}
        #: When each device wanted something, the last one last.
        self.heard_s: dict[str, float] = {}

    def go_on(self, before: _Wave) -> None:
        self.last_s, self.sent_s, self.heard_s = before.last_s, before.sent_s, before.heard_s

    def is_new(self, now_s: float) -> bool:
        return self.last_s is None or now_s - self.last_s > REST_S

    def has_others(self, device: str, now_s: float) -> bool:
        other_s = next((at_s for other, at_s in reversed(self.heard_s.items()) if other != device), None)
        return other_s is not None and now_s - other_s < ACTIVE_S

    def hear(self, device: str, now_s: float) -> None:
        self.heard_s.pop(device, None)
        self.heard_s[device] = now_s

    def note(self, key: str, now_s: float) -> None:
        if self.is_new(now_s):
            self.sent_s.clear()
        self.last_s = now_s
        self.sent_s.pop(key, None)
        self.sent_s[key] = now_s
        if len(self.sent_s) > SENT_MAX:
            del self.sent_s[next(iter(self.sent_s))]


class Waves:
    """All releases under way, and who goes with whom."""

    def __init__(self) -> None:
        self._waves: dict[str, _Wave] = {}
        self._by_id: dict[str, _Wave] = {}
        self._company: dict[str, frozenset[str]] = {}
        self._late_until_s: dict[str, float] = {}
        self._fronts: dict[str, str] = {}

    def allow(self, releases: Sequence[Listed], devices: frozenset[str]) -> None:
        """Know these releases, in the order in which they were made, and these devices only."""
        before = self._waves
        self._waves = {listed.release: _Wave(listed) for listed in releases}
        for release, wave in self._waves.items():
            if release in before:
                wave.go_on(before[release])
        # What several releases list belongs to the last of them that any device is to have.
        ordered = sorted(self._waves.values(), key=lambda wave: bool(wave.listed.devices))
        self._by_id = {chunk_id: wave for wave in ordered for chunk_id in wave.listed.ids}
        self._company = {device: company for device, company in self._company.items() if device in devices}
        self._late_until_s = {device: at_s for device, at_s in self._late_until_s.items() if device in devices}

    def lists(self, ids: Iterable[str]) -> bool:
        """Whether every one of these chunks is listed."""
        return all(chunk_id in self._by_id for chunk_id in ids)

    def hear(self, device: str, key: str, now_s: float) -> None:
        """Note that a device wants something of the release of `key`."""
        self._wave(key).hear(device, now_s)

    def terms(self, device: str, key: str, now_s: float) -> Terms:
        """When a chunk is due that `device` is the first to want."""
        wave = self._wave(key)
        if wave.is_new(now_s):
            return Terms(wave.listed.devices, now_s + START_GATHER_S)
        if (sent_s := wave.sent_s.get(key)) is not None:
            return Terms(None, max(now_s + GATHER_S, sent_s + RESEND_AFTER_S))
        awaited = self._awaited(device, now_s)
        is_alone = not awaited and wave.has_others(device, now_s)
        return Terms(None if is_alone else awaited, now_s + GATHER_S)

    def sent(self, key: str, wanters: frozenset[str], terms: Terms, now_s: float) -> None:
        """Note that a chunk goes out, and to whom."""
        wave = self._wave(key)
        if terms.awaited is not None:
            for late in terms.awaited - wanters:
                self._late_until_s[late] = now_s + PATIENCE_S
            self._company |= dict.fromkeys(wanters, wanters)
            if len(wave.listed.devices) > 1:
                self._fronts[wave.listed.release] = wirekeys.ids(key)[0]
        wave.note(key, now_s)

    def fronts(self) -> dict[str, str]:
        """The newest chunk sent of each release that several devices are to have, where it has changed since."""
        fronts, self._fronts = self._fronts, {}
        return fronts

    def _awaited(self, device: str, now_s: float) -> frozenset[str]:
        """The others that are expected with `device`."""
        company = self._company.get(device, frozenset())
        late = {other for other in company if self._late_until_s.get(other, 0.0) > now_s} if self._late_until_s else ()
        return company.difference(late, [device])

    def _wave(self, key: str) -> _Wave:
        return self._by_id[wirekeys.ids(key)[0]]
