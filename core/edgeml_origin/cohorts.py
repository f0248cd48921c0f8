"""Cohorts: the devices that are expected to want the next chunk, by the chunks that they have wanted so far.

Theory. A publication over MQTT costs the origin the same for one subscriber and for a hundred. So the origin gains most
when devices that fetch the same release ask for the same chunk at about the same time. It doesn't direct them. It waits
a moment before it publishes, and publishes once for all that have asked.

For how long, and for which devices? At the start, the signed deployments and records tell which devices will fetch a
release. They learn of it within seconds of each other, so the first want waits for them, `START_GATHER_S` at most. From
then on the evidence is better: devices that received the last chunk together ask for the next one together. That set
is a device's cohort, and its wants wait for it.

Each device has a credit: the seconds for which others may still wait for it. A wait begins when half of a chunk's
devices have asked, and is charged to each device that asks later or not at all. The credit grows by `CREDIT_SHARE` of
the time, up to `CREDIT_MAX_S`. So boards of about one speed stay together through each other's short pauses. A somewhat
slower board sets the pace. A much slower one soon has no credit, and no device waits for it. Over a long fetch no
device can cost its cohort more than `CREDIT_SHARE` of the time.

A late device would now need every chunk for itself. Two rules bring it back. The origin publishes the position of a
release, the id of the chunk sent last, and a device that has fallen behind continues after it. And a chunk that was
just sent is sent again only after `RESEND_AFTER_S`, together for all devices that missed it.

Nothing here is needed for correctness: a wrong guess costs a wait or a second publication. Pure: the caller passes
`now_s`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

import msgspec

from edgeml_core import wire_keys

#: Seconds for which a want waits at least: a few round trips, and little beside a window of 1.5 s.
GATHER_S: Final = 0.2
#: Seconds for which a want waits for the device's cohort at most: what a window of a slow network holds.
GATHER_MAX_S: Final = 1.5
#: The same where a device begins: the others see the announcement and verify the signed files within seconds.
START_GATHER_S: Final = 3.0
#: Devices that are waited for by name at the start. Of more some are always away, so the wait takes its whole time.
AWAITED_MAX: Final = 256
#: Seconds until a chunk may be sent again: longer than `GATHER_S`, so that all devices that missed it have asked.
RESEND_AFTER_S: Final = 0.25
#: Seconds without a want or a publication of a release after which its fetch is over: all devices begin again.
REST_S: Final = 30.0
#: Seconds for which a device counts as fetching after its last want, and a release as being sent: above one window.
ACTIVE_S: Final = 2.0
#: Seconds for which others wait for a device that has let none wait: stalls of a second on a busy board are common.
CREDIT_MAX_S: Final = 2.0
#: The credit that a device gains, in seconds per second.
CREDIT_SHARE: Final = 0.15
#: Seconds of credit below which no device waits: shorter waits bring no device back.
CREDIT_LEAST_S: Final = 0.05


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
    """When a chunk is due: at `due_s` at the latest.

    With `awaited` devices it is due as soon as all of them want it. Those of `briefly` are awaited for a shorter time.
    """

    awaited: frozenset[str] | None
    due_s: float
    briefly: tuple[tuple[str, float], ...] = ()

    def at_s(self, wanters: Set[str]) -> float:
        """When the chunk is due, if no other device asks for it; -inf for at once."""
        if self.awaited is None or not self.awaited <= wanters:
            return self.due_s
        missing_s = (until_s for device, until_s in self.briefly if device not in wanters)
        return min(self.due_s, max(missing_s, default=-math.inf))

    def joined(self, other: SendDeadline) -> SendDeadline:
        """Return the deadline of a chunk that two devices want: the earlier one, and the devices awaited by it."""
        earlier, later = (other, self) if other.due_s < self.due_s else (self, other)
        return msgspec.structs.replace(later, due_s=earlier.due_s) if earlier.awaited is None else earlier


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


class _Credits:
    """The seconds for which others may still wait for each device."""

    def __init__(self) -> None:
        #: The credit left, and when it was counted.
        self._left_s: dict[str, tuple[float, float]] = {}
        #: Until when each device has been charged: all chunks of one request wait at the same time.
        self._charged_s: dict[str, float] = {}
        #: The devices whose credit was below the longest wait when it was counted.
        self._short: set[str] = set()

    def keep(self, devices: frozenset[str]) -> None:
        self._left_s = {device: left for device, left in self._left_s.items() if device in devices}
        self._charged_s = {device: at_s for device, at_s in self._charged_s.items() if device in devices}
        self._short &= devices

    def left_s(self, device: str, now_s: float) -> float:
        left_s, counted_s = self._left_s.get(device, (CREDIT_MAX_S, now_s))
        return min(CREDIT_MAX_S, left_s + (now_s - counted_s) * CREDIT_SHARE)

    def charge(self, device: str, since_s: float, until_s: float) -> None:
        waited_s = until_s - max(since_s, self._charged_s.get(device, since_s))
        if waited_s > 0:
            left_s = self.left_s(device, until_s) - waited_s
            self._left_s[device], self._charged_s[device] = (left_s, until_s), until_s
            if left_s < GATHER_MAX_S:
                self._short.add(device)

    def short_of(self, devices: frozenset[str], now_s: float) -> dict[str, float]:
        """The credits below the longest wait."""
        left_s = {device: self.left_s(device, now_s) for device in devices & self._short}
        self._short -= {device for device, it in left_s.items() if it >= GATHER_MAX_S}
        return {device: it for device, it in left_s.items() if it < GATHER_MAX_S}


class Cohorts:
    """All releases as they are fetched, and each device's cohort."""

    def __init__(self) -> None:
        self._fetches: dict[str, _Fetch] = {}
        self._by_id: dict[str, _Fetch] = {}
        self._cohort: dict[str, frozenset[str]] = {}
        self._credits = _Credits()
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
        self._credits.keep(devices)

    def lists(self, ids: Iterable[str]) -> bool:
        """Return whether a known release lists every one of these chunks."""
        return all(chunk_id in self._by_id for chunk_id in ids)

    def on_want(self, device: str, keys: Iterable[str], now_s: float) -> dict[str, SendDeadline]:
        """Note that a device wants chunks, and return the deadline of each for this device alone."""
        usual = self._usual(device, now_s)
        return {key: self._deadline(device, key, usual, now_s) for key in keys}

    def _usual(self, device: str, now_s: float) -> SendDeadline:
        """The deadline of a chunk that the cohort is expected to want at about this time."""
        others = self._cohort.get(device, frozenset()) - {device}
        short_s = self._credits.short_of(others, now_s)
        awaited = others.difference(short_s)
        briefly = tuple((other, now_s + left_s) for other, left_s in short_s.items() if left_s >= CREDIT_LEAST_S)
        return SendDeadline(awaited, now_s + GATHER_MAX_S, briefly)

    def _deadline(self, device: str, key: str, usual: SendDeadline, now_s: float) -> SendDeadline:
        fetch = self._fetch(key)
        fetch.on_want(device, now_s)
        begins = fetch.began_s[device] == now_s and not fetch.is_being_sent(now_s)
        if begins and len(fetch.announced.devices) - len(fetch.began_s) > AWAITED_MAX:
            return SendDeadline(None, now_s + START_GATHER_S)
        if begins and (expected := fetch.announced.devices - fetch.began_s.keys()):
            return SendDeadline(expected, now_s + START_GATHER_S)
        if resend_s := fetch.resend_s(key, now_s):
            return SendDeadline(None, max(resend_s, now_s + GATHER_S))
        if not usual.awaited and not usual.briefly and fetch.has_others(device, now_s):
            return SendDeadline(None, now_s + GATHER_S)
        return usual

    def on_sent(self, key: str, wanted_s: Mapping[str, float], deadline: SendDeadline, now_s: float) -> None:
        """Note that a chunk is published.

        Args:
            key: its wire key.
            wanted_s: when each device that receives it asked for it.
            deadline: its deadline.
            now_s: the time.
        """
        fetch = self._fetch(key)
        median_s = statistics.median_high(wanted_s.values())
        awaited = (deadline.awaited or frozenset()).union(device for device, _ in deadline.briefly)
        for device in awaited | wanted_s.keys():
            self._credits.charge(device, median_s, wanted_s.get(device, now_s))
        wanters = frozenset(wanted_s)
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

    def _fetch(self, key: str) -> _Fetch:
        return self._by_id[wire_keys.ids(key)[0]]
