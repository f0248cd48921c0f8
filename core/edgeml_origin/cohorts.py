"""Who goes together: which devices are expected to want the next chunk, as far as the last ones tell.

When a device begins with a release that isn't just being sent, all that are to have it and haven't begun are expected.
From then on a device is expected by those with which it shared its last chunk. Who lets the others wait isn't waited
for again for a while: a slow device costs the others one short wait now and then. Pure: `now_s` is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from edgeml_core import wire_keys

#: How long the first want for a chunk waits for the other devices that are expected to want it.
GATHER_S: Final = 0.2
#: The same where a device begins: the others hear of the release, look at what is signed, and want it within seconds.
START_GATHER_S: Final = 3.0
#: How soon a chunk may be sent again, to those that came too late for it.
RESEND_AFTER_S: Final = 0.25
#: A wave is over when nothing of its release was wanted or sent for so long.
REST_S: Final = 30.0
#: A device that wanted something of a release so lately is under way with it; so is what was sent so lately.
ACTIVE_S: Final = 2.0
#: For so long nobody waits for a device that was late.
PATIENCE_S: Final = 10.0


class AnnouncedRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is announced.

    Args:
        release: the id of its manifest, `wirekeys.chunk_id` of the digest.
        ids: of its chunks.
        devices: those that may come to want it.
    """

    release: str
    ids: frozenset[str]
    devices: frozenset[str] = frozenset()


class SendDeadline(msgspec.Struct, frozen=True):
    """When a chunk is due: as soon as all of `awaited` want it, if not None; at `due_s` at the latest."""

    awaited: frozenset[str] | None
    due_s: float

    def joined(self, other: SendDeadline) -> SendDeadline:
        """Those of a chunk that two devices want: the earlier time, and who is awaited by it."""
        is_earlier = other.due_s < self.due_s
        awaited = other.awaited if self.awaited is None or (is_earlier and other.awaited is not None) else self.awaited
        return SendDeadline(awaited, min(self.due_s, other.due_s))


class _Wave:
    """One release under way."""

    def __init__(self, listed: AnnouncedRelease) -> None:
        self.listed = listed
        self._last_s = 0.0
        #: When each device began, and wanted something last; the latest at the end.
        self.begun_s: dict[str, float] = {}
        self._heard_s: dict[str, float] = {}
        #: What was sent just now.
        self._sent_s: dict[str, float] = {}

    def go_on(self, before: _Wave) -> None:
        self._last_s, self._sent_s = before._last_s, before._sent_s
        self.begun_s, self._heard_s = before.begun_s, before._heard_s

    def on_want(self, device: str, now_s: float) -> None:
        if now_s - self._last_s > REST_S:
            self.begun_s.clear()
        self._last_s = now_s
        self.begun_s.setdefault(device, now_s)
        self._heard_s.pop(device, None)
        self._heard_s[device] = now_s

    def is_running(self, now_s: float) -> bool:
        return now_s - next(reversed(self._sent_s.values()), -REST_S) < ACTIVE_S

    def has_others(self, device: str, now_s: float) -> bool:
        other_s = next((at_s for other, at_s in reversed(self._heard_s.items()) if other != device), None)
        return other_s is not None and now_s - other_s < ACTIVE_S

    def send(self, key: str, now_s: float) -> None:
        self._last_s = now_s
        self._sent_s = {sent: at_s for sent, at_s in self._sent_s.items() if now_s - at_s < RESEND_AFTER_S}
        self._sent_s[key] = now_s

    def again_s(self, key: str, now_s: float) -> float | None:
        """When a chunk that was sent just now may be sent again."""
        again_s = self._sent_s.get(key, -RESEND_AFTER_S) + RESEND_AFTER_S
        return again_s if again_s > now_s else None


class Waves:
    """All releases under way, and who goes with whom."""

    def __init__(self) -> None:
        self._waves: dict[str, _Wave] = {}
        self._by_id: dict[str, _Wave] = {}
        self._company: dict[str, frozenset[str]] = {}
        self._late_until_s: dict[str, float] = {}
        self._fronts: dict[str, str] = {}

    def allow(self, releases: Sequence[AnnouncedRelease], devices: frozenset[str]) -> None:
        """Know these releases, in the order in which they were made, and these devices only."""
        before = self._waves
        self._waves = {listed.release: _Wave(listed) for listed in releases}
        for release in self._waves.keys() & before.keys():
            self._waves[release].go_on(before[release])
        # What several releases list belongs to the last of them that any device is to have.
        ordered = sorted(self._waves.values(), key=lambda wave: bool(wave.listed.devices))
        self._by_id = {chunk_id: wave for wave in ordered for chunk_id in wave.listed.ids}
        self._company = {device: company for device, company in self._company.items() if device in devices}
        self._late_until_s = {device: at_s for device, at_s in self._late_until_s.items() if device in devices}

    def lists(self, ids: Iterable[str]) -> bool:
        """Whether every one of these chunks is listed."""
        return all(chunk_id in self._by_id for chunk_id in ids)

    def on_want(self, device: str, key: str, now_s: float) -> SendDeadline:
        """Note that a device wants a chunk; when it would be due, were it the only one."""
        wave = self._wave(key)
        wave.on_want(device, now_s)
        begins = wave.begun_s[device] == now_s and not wave.is_running(now_s)
        if begins and (expected := wave.listed.devices - wave.begun_s.keys()):
            return SendDeadline(expected, now_s + START_GATHER_S)
        if again_s := wave.again_s(key, now_s):
            return SendDeadline(None, max(again_s, now_s + GATHER_S))
        awaited = self._awaited(device, now_s)
        is_alone = not awaited and wave.has_others(device, now_s)
        return SendDeadline(None if is_alone else awaited, now_s + GATHER_S)

    def send(self, key: str, wanters: frozenset[str], terms: SendDeadline, now_s: float) -> None:
        """Note that a chunk goes out, and to whom."""
        wave = self._wave(key)
        for late in (terms.awaited or frozenset()) - wanters:
            self._late_until_s[late] = now_s + PATIENCE_S
        self._company |= dict.fromkeys(wanters, wanters)
        if len(wave.listed.devices) > 1:
            self._fronts[wave.listed.release] = wire_keys.ids(key)[0]
        wave.send(key, now_s)

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
        return self._by_id[wire_keys.ids(key)[0]]
