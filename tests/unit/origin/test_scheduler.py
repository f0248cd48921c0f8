"""The origin's decisions, without MQTT."""

from __future__ import annotations

import pytest

from edgeml_core import wire_keys
from edgeml_origin import cohorts, scheduler
from edgeml_origin.cohorts import AnnouncedRelease, SendDeadline
from edgeml_origin.scheduler import Scheduler

A, B, C, D = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)
BOTH = frozenset({"pi-1", "pi-2"})


def a_scheduler(*ids: str, devices: frozenset[str] = BOTH, expected: frozenset[str] = BOTH) -> Scheduler:
    """A scheduler of one release."""
    at = Scheduler()
    at.allow(releases=[a_release(*(ids or (A, B, C, D)), expected=expected)], devices=devices)
    return at


def a_release(*ids: str, name: str = "r" * 32, expected: frozenset[str] = BOTH) -> AnnouncedRelease:
    """A release of these chunks."""
    return AnnouncedRelease(release=name, ids=frozenset(ids), devices=expected)


def taken(at: Scheduler, now_s: float) -> list[str]:
    """The keys of one batch."""
    return [due.key for due in at.take(now_s)]


def under_way(*ids: str) -> Scheduler:
    """A scheduler whose two devices have just received chunk A together, at 0 s."""
    at = a_scheduler(*ids)
    at.want("pi-1", [A], 0.0)
    at.want("pi-2", [A], 0.0)
    assert [due.wanters for due in at.take(0.0)] == [BOTH]
    return at


def test_first_want_of_a_release_waits_for_all_expected_devices():
    """The first chunks are due when the last of the expected devices wants them: one publication for all."""
    at = a_scheduler()
    at.want("pi-1", [A, B], 0.0)
    assert taken(at, 1.0) == []
    at.want("pi-2", [A, B], 1.0)
    assert taken(at, 1.0) == [A, B]
    assert taken(at, 100.0) == []


def test_first_want_of_a_release_waits_at_most_the_gather_time():
    """Who doesn't come within the time is not waited for."""
    at = a_scheduler()
    at.want("pi-1", [A], 0.0)
    assert at.wait_s(0.0) == pytest.approx(cohorts.START_GATHER_S)
    assert taken(at, cohorts.START_GATHER_S) == [A]


def test_late_first_want_waits_for_devices_that_have_not_begun():
    """And for nobody else: not for those that are done."""
    devices = frozenset({"pi-1", "pi-2", "pi-3"})
    at = a_scheduler(devices=devices, expected=devices)
    at.want("pi-1", [A], 0.0)
    assert taken(at, cohorts.START_GATHER_S) == [A]
    at.want("pi-2", [A], 10.0)
    assert taken(at, 11.0) == []
    at.want("pi-3", [A], 11.0)
    assert taken(at, 11.0) == [A]


def test_first_want_during_a_fetch_joins_the_cohort():
    """Its first chunks wait a moment only, for the others to want them, too."""
    devices = frozenset({"pi-1", "pi-2", "pi-3", "pi-4"})
    at = a_scheduler(devices=devices, expected=devices)
    for device in ("pi-1", "pi-2"):
        at.want(device, [A], 0.0)
    assert taken(at, cohorts.START_GATHER_S) == [A]
    for device in ("pi-1", "pi-2"):
        at.want(device, [D], 3.5)
    assert taken(at, 3.5) == [D]
    at.want("pi-3", [B, C], 4.0)
    at.want("pi-1", [B], 4.0)
    assert taken(at, 4.0) == []
    at.want("pi-2", [B], 4.1)
    assert [due.wanters for due in at.take(4.1)] == [frozenset({"pi-1", "pi-2", "pi-3"})]
    assert taken(at, 4.0 + cohorts.GATHER_S) == [C]


def test_want_of_the_only_device_is_due_at_once():
    """It neither waits at the start nor later."""
    at = a_scheduler(expected=frozenset({"pi-1"}))
    at.want("pi-1", [A, B], 0.0)
    assert taken(at, 0.0) == [A, B]
    at.want("pi-1", [C], 0.1)
    assert taken(at, 0.1) == [C]


def test_want_waits_for_the_cohort_of_the_last_chunk():
    """Whoever shared the last chunk is expected to share the next: it is due when all want it, or after the moment."""
    at = under_way()
    at.want("pi-1", [B], 1.0)
    assert taken(at, 1.01) == []
    at.want("pi-2", [B], 1.02)
    assert taken(at, 1.02) == [B]
    at.want("pi-1", [C], 2.0)
    assert taken(at, 2.0 + cohorts.GATHER_S) == [C]


def test_want_does_not_wait_for_a_late_device():
    """One moment lost, then none for a while, though the late device is there again with the next chunk."""
    devices = frozenset({"pi-1", "pi-2", "pi-3"})
    at = a_scheduler(devices=devices, expected=devices)
    for device in devices:
        at.want(device, [A], 0.0)
    assert taken(at, 0.0) == [A]
    at.want("pi-1", [B], 1.0)
    at.want("pi-2", [B], 1.0)
    assert taken(at, 1.0) == []
    assert taken(at, 1.0 + cohorts.GATHER_S) == [B]
    for device in devices:
        at.want(device, [C], 2.0)
    assert taken(at, 2.0) == [C]
    at.want("pi-1", [D], 3.0)
    at.want("pi-2", [D], 3.0)
    assert taken(at, 3.0) == [D]


def test_want_for_a_chunk_just_sent_is_due_later_and_once():
    """Wants that come too late are gathered until the memory of the publication has passed."""
    at = under_way()
    at.want("pi-1", [A], 0.01)
    assert taken(at, cohorts.RESEND_AFTER_S * 0.9) == []
    at.want("pi-2", [A], cohorts.RESEND_AFTER_S * 0.9)
    assert [due.wanters for due in at.take(cohorts.RESEND_AFTER_S)] == [BOTH]


def test_want_after_a_rest_waits_for_all_expected_devices():
    """After a while without any publication its devices are expected as at the first time."""
    at = under_way()
    at.want("pi-1", [A], cohorts.REST_S + 1)
    assert taken(at, cohorts.REST_S + 1 + cohorts.GATHER_S) == []
    assert taken(at, cohorts.REST_S + 1 + cohorts.START_GATHER_S) == [A]


def test_positions_are_taken_once_for_releases_of_several_devices():
    """By the id of the chunk that was sent last; not for a single device."""
    at = under_way()
    assert at.take_positions() == {"r" * 32: A}
    assert at.take_positions() == {}
    at.want("pi-1", [wire_keys.join(B, A)], 1.0)
    at.take(1.0 + cohorts.GATHER_S)
    assert at.take_positions() == {"r" * 32: B}
    single = a_scheduler(expected=frozenset({"pi-1"}))
    single.want("pi-1", [A], 0.0)
    assert taken(single, 0.0) == [A]
    assert single.take_positions() == {}


def test_chunk_of_two_releases_belongs_to_the_one_with_devices():
    """The old version's listing doesn't make the new one's devices unexpected."""
    at = Scheduler()
    releases = [a_release(A, B, name="1" * 32), a_release(A, C, name="2" * 32, expected=frozenset())]
    at.allow(releases=releases, devices=BOTH)
    at.want("pi-1", [A], 0.0)
    assert taken(at, 1.0) == []
    at.want("pi-2", [A], 1.0)
    assert taken(at, 1.0) == [A]


def test_want_of_unlisted_chunks_or_unknown_devices_is_dropped():
    """An id that no manifest lists, alone or as a base, no key at all, or a device that isn't enrolled: nothing."""
    at = a_scheduler(A)
    at.want("pi-1", [B, wire_keys.join(A, B), wire_keys.join(B, A), "A", ""], 0.0)
    at.want("stranger", [A], 0.0)
    assert at.wait_s(0.0) is None
    assert at.take(100.0) == []


def test_allow_drops_pending_chunks_that_are_no_longer_listed():
    """A chunk that the manifests no longer list is dropped, though it was wanted; what was sent is remembered."""
    at = under_way()
    at.want("pi-1", [A, B, C], 0.01)
    at.allow(releases=[a_release(A, B)], devices=BOTH)
    assert taken(at, cohorts.GATHER_S + 0.02) == [B]
    assert taken(at, 100.0) == [A]


def test_wait_s_is_the_time_to_the_earliest_chunk():
    """The time to wait is that of the earliest chunk, never negative."""
    at = under_way()
    assert at.wait_s(0.0) is None
    at.want("pi-1", [B], 1.0)
    at.want("pi-1", [C], 1.02)
    assert at.wait_s(1.0) == pytest.approx(cohorts.GATHER_S)
    assert at.wait_s(5.0) == 0.0


def test_want_beyond_the_burst_is_dropped_for_that_device_only():
    """A flood is cut at the burst; a second later the device has its rate again; another device isn't touched."""
    ids = [f"{number:032x}" for number in range(8000)]
    at = a_scheduler(*ids)
    burst = int(scheduler.WANTS_BURST)
    at.want("pi-1", ids[: 2 * burst], 0.0)
    assert len(everything(at, 10.0)) == burst
    at.want("pi-1", ids[2 * burst :], 0.5)
    assert len(everything(at, 20.0)) == scheduler.WANTS_PER_S / 2
    at.want("pi-2", ids[:1000], 0.5)
    assert len(everything(at, 30.0)) == 1000


def test_want_beyond_the_pending_bound_is_dropped():
    """However many devices ask, no more than the bound is promised at one time."""
    devices = frozenset(f"pi-{number}" for number in range(20))
    ids = [f"{number:032x}" for number in range(20_000)]
    at = a_scheduler(*ids, devices=devices)
    for number, device in enumerate(sorted(devices)):
        at.want(device, ids[number * 1000 : (number + 1) * 1000], 0.0)
    assert len(everything(at, 10.0)) == scheduler.PENDING_MAX


def test_take_returns_at_most_one_batch():
    """One batch holds at most its bound; the rest is due at once."""
    ids = [f"{number:032x}" for number in range(100)]
    at = a_scheduler(*ids)
    at.want("pi-1", ids, 0.0)
    assert taken(at, 10.0) == ids[: scheduler.BATCH_MAX]
    assert at.wait_s(10.0) == 0.0


def everything(at: Scheduler, now_s: float) -> list[str]:
    """All that is due, batch by batch."""
    keys: list[str] = []
    while batch := taken(at, now_s):
        keys += batch
    return keys


def test_want_on_a_full_schedule_still_joins_a_pending_chunk(monkeypatch):
    """The bound is for chunks, not for devices."""
    monkeypatch.setattr(scheduler, "PENDING_MAX", 1)
    at = a_scheduler()
    at.want("pi-1", [A], 0.0)
    at.want("pi-2", [B, A], 0.0)
    assert [(due.key, due.wanters) for due in at.take(0.0)] == [(A, BOTH)]
    assert at.wait_s(0.0) is None


def test_tokens_grow_no_further_than_the_burst():
    """After a day of rest a device has one burst, not a day's worth."""
    ids = [f"{number:032x}" for number in range(3 * int(scheduler.WANTS_BURST))]
    at = a_scheduler(*ids)
    at.want("pi-1", ids[:1], 0.0)
    assert len(everything(at, 10.0)) == 1
    at.want("pi-1", ids, 86_400.0)
    assert len(everything(at, 90_000.0)) == scheduler.WANTS_BURST


def test_allow_forgets_devices_that_are_no_longer_enrolled():
    """A removed device isn't waited for, and its wants are dropped."""
    at = under_way()
    at.allow(releases=[a_release(A, B, expected=frozenset({"pi-1"}))], devices=frozenset({"pi-1"}))
    at.want("pi-2", [B], 1.0)
    assert at.wait_s(1.0) is None
    at.allow(releases=[a_release(A, B)], devices=BOTH)
    at.want("pi-2", [B], 5.0)
    assert taken(at, 5.0) == [B], "its cohort was forgotten with it"


def test_two_deadlines_join_to_the_earlier_one():
    """A device that waits for nobody in particular keeps no other from its cohort."""
    alone, together = SendDeadline(None, 1.0), SendDeadline(BOTH, 2.0)
    assert alone.joined(together) == together.joined(alone) == SendDeadline(BOTH, 1.0)
    sooner = SendDeadline(frozenset({"pi-3"}), 0.5)
    assert together.joined(sooner) == sooner.joined(together) == sooner
