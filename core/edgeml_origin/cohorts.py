"""Cohorts: the devices that are expected to want the next chunk, by the chunks that they have wanted so far.

Theory. A publication over MQTT costs the origin the same for one subscriber and for a hundred. So the origin gains most
when devices that fetch the same release ask for the same chunk at about the same time. It doesn't direct them. It waits
a moment before it publishes, and publishes once for all that have asked.

For how long, and for which devices? At the start, the signed fleet document names the devices that will fetch a
release. They learn of it within seconds of each other, so the first want waits for them, `START_GATHER_S` at most. From
then on the evidence is better: devices that received the last chunk together ask for the next one together. That set
is a device's cohort, and its wants wait for it, `GATHER_S` at most. A device that lets its cohort wait is slower or
gone. It counts as late, and for `LATE_S` no other device waits for it. So each slow device costs its cohort one short
wait every few seconds, and never sets the pace.

A late device would now need every chunk for itself. Two rules bring it back. The origin publishes the position of a
release, the id of the chunk sent last, and a device that has fallen behind continues after it. And a chunk that was
just sent is sent again only after `RESEND_AFTER_S`, together for all devices that missed it.

Nothing here is needed for correctness: a wrong guess costs a wait or a second publication. Pure: the caller passes
`now_s`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from edgeml_core import wire_keys

#: Seconds for which a want waits for the device's cohort: a few round trips, and little beside a window of 1.5 s.
GATHER_S: Final = 0.2
#: The same where a device begins: the others see the announcement and verify the signed files within seconds.
START_GATHER_S: Final = 3.0
#: Seconds until a chunk may be sent again: longer than `GATHER_S`, so that all devices that missed it have asked.
RESEND_AFTER_S: Final = 0.25
#: Seconds without a want or a publication of a release after which its fetch is over: all devices begin again.
REST_S: Final = 30.0
#: Seconds for which a device counts as fetching after its last want, and a release as being sent: above one window.
ACTIVE_S: Final = 2.0
#: Seconds for which no device waits for one that was late.
LATE_S: Final = 10.0


class AnnouncedRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is announced.

    Args:
        release: the id of its manifest, `wire_keys.chunk_id` of the digest.
        ids: the ids of its chunks.
        devices: the devices that may want it.
    """

    release: str
    ids: frozenset[str]
    devices: frozenset[str] = frozenset()


class SendDeadline(msgspec.Struct, frozen=True):
    """When a chunk is due: as soon as all `awaited` devices want it, if not None, and at `due_s` at the latest."""

    awaited: frozenset[str] | None
    due_s: float

    def joined(self, other: SendDeadline) -> SendDeadline:
        """Return the deadline of a chunk that two devices want: the earlier time, and the devices awaited by it."""
        is_earlier = other.due_s < self.due_s
        awaited = other.awaited if self.awaited is None or (is_earlier and other.awaited is not None) else self.awaited
        return SendDeadline(awaited, min(self.due_s, other.due_s))


class _Fetch:
    """One release as it is fetched."""

    def __init__(self, announced: AnnouncedRelease) -> None:
        self.announced = announced
        self._active_s = 0.0
        #: When each device began.
        self.began_s: dict[str, float] = {}
        #: When each device wanted a chunk last; the latest at the end.
        self._wanted_s: dict[str, float] = {}
        #: When the chunks of the last `RESEND_AFTER_S` were sent; the latest at the end.
        self._sent_s: dict[str, float] = {}

    def continue_from(self, before: _Fetch) -> None:
        self._active_s, self._sent_s = before._active_s, before._sent_s
        self.began_s, self._wanted_s = before.began_s, before._wanted_s

    def on_want(self, device: str, now_s: float) -> None:
        if now_s - self._active_s > REST_S:
            self.began_s.clear()
        self._active_s = now_s
        self.began_s.setdefault(device, now_s)
        self._wanted_s.pop(device, None)
        self._wanted_s[device] = now_s

    def on_sent(self, key: str, now_s: float) -> None:
        self._active_s = now_s
        self._sent_s.pop(key, None)
        self._sent_s[key] = now_s
        while now_s - self._sent_s[oldest := next(iter(self._sent_s))] >= RESEND_AFTER_S:
            del self._sent_s[oldest]

    def is_being_sent(self, now_s: float) -> bool:
        return now_s - next(reversed(self._sent_s.values()), -REST_S) < ACTIVE_S

    def has_others(self, device: str, now_s: float) -> bool:
        other_s = next((at_s for other, at_s in reversed(self._wanted_s.items()) if other != device), None)
        return other_s is not None and now_s - other_s < ACTIVE_S

    def resend_s(self, key: str, now_s: float) -> float | None:
        """When a chunk that was just sent may be sent again."""
        resend_s = self._sent_s.get(key, -RESEND_AFTER_S) + RESEND_AFTER_S
        return resend_s if resend_s > now_s else None


class Cohorts:
    """All releases as they are fetched, and each device's cohort."""

    def __init__(self) -> None:
        self._fetches: dict[str, _Fetch] = {}
        self._by_id: dict[str, _Fetch] = {}
        self._cohort: dict[str, frozenset[str]] = {}
        self._late_until_s: dict[str, float] = {}
        self._positions: dict[str, str] = {}

    def allow(self, releases: Sequence[AnnouncedRelease], devices: frozenset[str]) -> None:
        """Replace the known releases, in the order of their publication, and the known devices."""
        before = self._fetches
        self._fetches = {announced.release: _Fetch(announced) for announced in releases}
        for release in self._fetches.keys() & before.keys():
            self._fetches[release].continue_from(before[release])
        # A chunk of several releases belongs to the last of them that a device is to have.
        ordered = sorted(self._fetches.values(), key=lambda fetch: bool(fetch.announced.devices))
        self._by_id = {chunk_id: fetch for fetch in ordered for chunk_id in fetch.announced.ids}
        self._cohort = {device: cohort for device, cohort in self._cohort.items() if device in devices}
        self._late_until_s = {device: at_s for device, at_s in self._late_until_s.items() if device in devices}

    def lists(self, ids: Iterable[str]) -> bool:
        """Return whether a known release lists every one of these chunks."""
        return all(chunk_id in self._by_id for chunk_id in ids)

    def on_want(self, device: str, key: str, now_s: float) -> SendDeadline:
        """Note that a device wants a chunk, and return its deadline for this device alone."""
        fetch = self._fetch(key)
        fetch.on_want(device, now_s)
        begins = fetch.began_s[device] == now_s and not fetch.is_being_sent(now_s)
        if begins and (expected := fetch.announced.devices - fetch.began_s.keys()):
            return SendDeadline(expected, now_s + START_GATHER_S)
        if resend_s := fetch.resend_s(key, now_s):
            return SendDeadline(None, max(resend_s, now_s + GATHER_S))
        awaited = self._awaited(device, now_s)
        is_alone = not awaited and fetch.has_others(device, now_s)
        return SendDeadline(None if is_alone else awaited, now_s + GATHER_S)

    def on_sent(self, key: str, wanters: frozenset[str], deadline: SendDeadline, now_s: float) -> None:
        """Note that a chunk is published, and for which devices."""
        fetch = self._fetch(key)
        for late in (deadline.awaited or frozenset()) - wanters:
            self._late_until_s[late] = now_s + LATE_S
        self._cohort |= dict.fromkeys(wanters, wanters)
        if len(fetch.announced.devices) > 1:
            self._positions[fetch.announced.release] = wire_keys.ids(key)[0]
        fetch.on_sent(key, now_s)

    def take_positions(self) -> dict[str, str]:
        """Return the positions that have changed since the last call, of releases for several devices.

        Returns:
            By release, the id of the chunk that was sent last.
        """
        positions, self._positions = self._positions, {}
        return positions

    def _awaited(self, device: str, now_s: float) -> frozenset[str]:
        """The other devices of the cohort that aren't late."""
        cohort = self._cohort.get(device, frozenset())
        late = {other for other in cohort if self._late_until_s.get(other, 0.0) > now_s} if self._late_until_s else ()
        return cohort.difference(late, [device])

    def _fetch(self, key: str) -> _Fetch:
        return self._by_id[wire_keys.ids(key)[0]]
