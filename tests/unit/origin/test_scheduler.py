"""The origin's decisions, without MQTT."""

from __future__ import annotations

import tracemalloc

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


def test_first_want_where_many_are_expected_waits_the_whole_time_and_costs_little():
    """The set of those that are left was made for each want: 32 ms with 100,000 devices."""
    devices = frozenset(f"pi-{number}" for number in range(20_000))
    at = a_scheduler(devices=devices, expected=devices)
    tracemalloc.start()
    for number in range(300):
        at.want(f"pi-{number}", [A], number / 1000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 500_000
    assert taken(at, cohorts.START_GATHER_S - 0.01) == []
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
    """The devices that shared the last chunk are expected to share the next: it is due when all want it, or later."""
    at = under_way()
    at.want("pi-1", [B], 1.0)
    assert taken(at, 1.01) == []
    at.want("pi-2", [B], 1.02)
    assert taken(at, 1.02) == [B]
    at.want("pi-1", [C], 2.0)
    assert taken(at, 2.0 + cohorts.GATHER_MAX_S - 0.01) == []
    assert taken(at, 2.0 + cohorts.GATHER_MAX_S) == [C]


def test_waits_spend_a_device_s_credit():
    """The first wait is the longest, the next what is left and has grown, then what has grown; time brings it back."""
    at, devices = three_under_way()
    assert waited_s(at, 1.0) == pytest.approx(cohorts.GATHER_MAX_S)
    share(at, devices, 3.0)
    grown_s = cohorts.CREDIT_SHARE * (4.0 - 1.0 - cohorts.GATHER_MAX_S)
    left_s = cohorts.CREDIT_MAX_S - cohorts.GATHER_MAX_S + grown_s
    assert waited_s(at, 4.0) == pytest.approx(left_s, abs=1e-3)
    share(at, devices, 4.1 + left_s)
    assert waited_s(at, 4.3 + left_s) <= cohorts.CREDIT_SHARE * 1.1
    rested_s = 5.0 + cohorts.CREDIT_MAX_S / cohorts.CREDIT_SHARE
    share(at, devices, rested_s)
    assert waited_s(at, rested_s + 1) == pytest.approx(cohorts.GATHER_MAX_S)


def test_a_device_that_asks_last_is_charged_too():
    """A device that always asks just before the deadline loses its credit, and others no longer wait for it."""
    at, _ = three_under_way()
    for now_s in (1.0, 3.0):
        for device in ("pi-1", "pi-2"):
            at.want(device, [B], now_s)
        at.want("pi-3", [B], now_s + 1.1)
        assert taken(at, now_s + 1.1) == [B]
    assert waited_s(at, 4.2) < cohorts.CREDIT_MAX_S / 4


def three_under_way() -> tuple[Scheduler, frozenset[str]]:
    """A scheduler whose three devices have just received chunk A together, at 0 s."""
    devices = frozenset({"pi-1", "pi-2", "pi-3"})
    at = a_scheduler(devices=devices, expected=devices)
    share(at, devices, 0.0)
    return at, devices


def share(at: Scheduler, devices: frozenset[str], now_s: float) -> None:
    """Let all devices receive chunk A together."""
    for device in devices:
        at.want(device, [A], now_s)
    assert taken(at, now_s) == [A]


def waited_s(at: Scheduler, now_s: float) -> float:
    """How long chunks for the first two devices wait for the third, which doesn't ask."""
    for device in ("pi-1", "pi-2"):
        at.want(device, [C, D], now_s)
    wait_s = at.wait_s(now_s)
    assert wait_s is not None
    assert taken(at, now_s + wait_s + 1e-6) == [C, D]
    return wait_s


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
    at.take(1.0 + cohorts.GATHER_MAX_S)
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
    assert taken(at, cohorts.GATHER_MAX_S + 0.01) == [A, B]


def test_wait_s_is_the_time_to_the_earliest_chunk():
    """The time to wait is that of the earliest chunk, never negative."""
    at = under_way()
    assert at.wait_s(0.0) is None
    at.want("pi-1", [B], 1.0)
    at.want("pi-1", [C], 1.02)
    assert at.wait_s(1.0) == pytest.approx(cohorts.GATHER_MAX_S)
    assert at.wait_s(5.0) == 0.0


def test_want_beyond_a_device_s_bound_is_dropped_for_that_device_only():
    """A flood is cut at the bound; another device isn't touched, and the flooding one may ask again afterwards."""
    ids = [f"{number:032x}" for number in range(3 * scheduler.DEVICE_PENDING_MAX)]
    at = a_scheduler(*ids)
    at.want("pi-1", ids, 0.0)
    at.want("pi-2", ids[-10:], 0.0)
    assert sorted(everything(at, 10.0)) == ids[: scheduler.DEVICE_PENDING_MAX] + ids[-10:]
    at.want("pi-1", ids[-20:], 20.0)
    assert everything(at, 30.0) == ids[-20:]


def test_devices_take_turns_by_cost():
    """Whole chunks of one device come before all but a few deltas of another, which asked earlier and for more."""
    ids = [f"{number:032x}" for number in range(200)]
    at = a_scheduler(*ids)
    at.want("pi-1", [wire_keys.join(chunk, ids[0]) for chunk in ids[1:129]], 0.0)
    at.want("pi-2", ids[136:], 0.0)
    first = everything(at, 10.0, batches=2)
    assert set(first) >= set(ids[136 : 136 + 58])
    assert sum(wire_keys.has_base(key) for key in first) <= 64 / scheduler.DELTA_COST + 1


def test_a_device_that_rested_has_no_turns_saved():
    """Turns that a device didn't take are lost: after a rest it takes every second, as the others do."""
    ids = [f"{number:032x}" for number in range(400)]
    at = a_scheduler(*ids)
    at.want("pi-1", ids[:200], 0.0)
    assert len(everything(at, 10.0)) == 200
    at.want("pi-1", ids[200:300], 20.0)
    at.want("pi-2", ids[300:], 20.0)
    assert sum(key in ids[300:] for key in taken(at, 30.0)) == scheduler.BATCH_MAX / 2


def test_want_beyond_the_pending_bound_is_dropped(monkeypatch):
    """However many devices ask, no more than the bound is promised at one time."""
    monkeypatch.setattr(scheduler, "PENDING_MAX", 600)
    devices = [f"pi-{number}" for number in range(3)]
    ids = [f"{number:032x}" for number in range(3 * scheduler.DEVICE_PENDING_MAX)]
    at = a_scheduler(*ids, devices=frozenset(devices))
    for number, device in enumerate(devices):
        at.want(device, ids[number::3], 0.0)
    assert len(everything(at, 10.0)) == 600


def test_take_returns_at_most_one_batch():
    """One batch holds at most its bound; the rest is due at once."""
    ids = [f"{number:032x}" for number in range(100)]
    at = a_scheduler(*ids)
    at.want("pi-1", ids, 0.0)
    assert taken(at, 10.0) == ids[: scheduler.BATCH_MAX]
    assert at.wait_s(10.0) == 0.0


def everything(at: Scheduler, now_s: float, batches: int = 1000) -> list[str]:
    """All that is due, batch by batch."""
    return [key for _ in range(batches) for key in taken(at, now_s)]


def test_want_on_a_full_schedule_still_joins_a_pending_chunk(monkeypatch):
    """The bound is for chunks, not for devices."""
    monkeypatch.setattr(scheduler, "PENDING_MAX", 1)
    at = a_scheduler()
    at.want("pi-1", [A], 0.0)
    at.want("pi-2", [B, A], 0.0)
    assert [(due.key, due.wanters) for due in at.take(0.0)] == [(A, BOTH)]
    assert at.wait_s(0.0) is None


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
