"""The origin's decisions, without MQTT."""

from __future__ import annotations

import pytest

from edgeml_core import wire_keys
from edgeml_origin import cohorts, scheduler
from edgeml_origin.cohorts import AnnouncedRelease
from edgeml_origin.scheduler import Demand

A, B, C, D = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)
BOTH = frozenset({"pi-1", "pi-2"})


def a_demand(*ids: str, devices: frozenset[str] = BOTH, expected: frozenset[str] = BOTH) -> Demand:
    """The demand for one release."""
    asked = Demand()
    asked.allow(releases=[a_release(*(ids or (A, B, C, D)), expected=expected)], devices=devices)
    return asked


def a_release(*ids: str, name: str = "r" * 32, expected: frozenset[str] = BOTH) -> AnnouncedRelease:
    """A release of these chunks."""
    return AnnouncedRelease(release=name, ids=frozenset(ids), devices=expected)


def taken(asked: Demand, now_s: float) -> list[str]:
    """The keys of one batch."""
    return [due.key for due in asked.take(now_s)]


def under_way(*ids: str) -> Demand:
    """A demand whose two devices have just shared chunk A, at 0 s."""
    asked = a_demand(*ids)
    asked.want("pi-1", [A], 0.0)
    asked.want("pi-2", [A], 0.0)
    assert [due.wanters for due in asked.take(0.0)] == [BOTH]
    return asked


def test_a_new_release_waits_for_all_that_are_to_have_it():
    """The first chunks are due when the last of the expected devices wants them: one publication for all."""
    asked = a_demand()
    asked.want("pi-1", [A, B], 0.0)
    assert taken(asked, 1.0) == []
    asked.want("pi-2", [A, B], 1.0)
    assert taken(asked, 1.0) == [A, B]
    assert taken(asked, 100.0) == []


def test_a_new_release_doesn_t_wait_for_ever():
    """Who doesn't come within the time is not waited for."""
    asked = a_demand()
    asked.want("pi-1", [A], 0.0)
    assert asked.wait_s(0.0) == pytest.approx(cohorts.START_GATHER_S)
    assert taken(asked, cohorts.START_GATHER_S) == [A]


def test_who_begins_later_waits_for_those_who_have_not_begun():
    """And for nobody else: not for those that are done."""
    devices = frozenset({"pi-1", "pi-2", "pi-3"})
    asked = a_demand(devices=devices, expected=devices)
    asked.want("pi-1", [A], 0.0)
    assert taken(asked, cohorts.START_GATHER_S) == [A]
    asked.want("pi-2", [A], 10.0)
    assert taken(asked, 11.0) == []
    asked.want("pi-3", [A], 11.0)
    assert taken(asked, 11.0) == [A]


def test_who_begins_while_the_release_is_being_sent_joins():
    """Its first chunks wait a moment only, for the others to want them, too."""
    devices = frozenset({"pi-1", "pi-2", "pi-3", "pi-4"})
    asked = a_demand(devices=devices, expected=devices)
    for device in ("pi-1", "pi-2"):
        asked.want(device, [A], 0.0)
    assert taken(asked, cohorts.START_GATHER_S) == [A]
    for device in ("pi-1", "pi-2"):
        asked.want(device, [D], 3.5)
    assert taken(asked, 3.5) == [D]
    asked.want("pi-3", [B, C], 4.0)
    asked.want("pi-1", [B], 4.0)
    assert taken(asked, 4.0) == []
    asked.want("pi-2", [B], 4.1)
    assert [due.wanters for due in asked.take(4.1)] == [frozenset({"pi-1", "pi-2", "pi-3"})]
    assert taken(asked, 4.0 + cohorts.GATHER_S) == [C]


def test_the_only_device_is_answered_at_once():
    """It neither waits at the start nor later."""
    asked = a_demand(expected=frozenset({"pi-1"}))
    asked.want("pi-1", [A, B], 0.0)
    assert taken(asked, 0.0) == [A, B]
    asked.want("pi-1", [C], 0.1)
    assert taken(asked, 0.1) == [C]


def test_devices_that_go_together_are_waited_for_a_moment():
    """Whoever shared the last chunk is expected to share the next: it is due when all want it, or after the moment."""
    asked = under_way()
    asked.want("pi-1", [B], 1.0)
    assert taken(asked, 1.01) == []
    asked.want("pi-2", [B], 1.02)
    assert taken(asked, 1.02) == [B]
    asked.want("pi-1", [C], 2.0)
    assert taken(asked, 2.0 + cohorts.GATHER_S) == [C]


def test_who_was_late_isn_t_waited_for_again():
    """One moment lost, then none for a while, though the late device is there again with the next chunk."""
    devices = frozenset({"pi-1", "pi-2", "pi-3"})
    asked = a_demand(devices=devices, expected=devices)
    for device in devices:
        asked.want(device, [A], 0.0)
    assert taken(asked, 0.0) == [A]
    asked.want("pi-1", [B], 1.0)
    asked.want("pi-2", [B], 1.0)
    assert taken(asked, 1.0) == []
    assert taken(asked, 1.0 + cohorts.GATHER_S) == [B]
    for device in devices:
        asked.want(device, [C], 2.0)
    assert taken(asked, 2.0) == [C]
    asked.want("pi-1", [D], 3.0)
    asked.want("pi-2", [D], 3.0)
    assert taken(asked, 3.0) == [D]


def test_a_chunk_just_sent_is_sent_again_only_later_and_once_for_all():
    """Wants that come too late are gathered until the memory of the publication has passed."""
    asked = under_way()
    asked.want("pi-1", [A], 0.01)
    assert taken(asked, cohorts.RESEND_AFTER_S * 0.9) == []
    asked.want("pi-2", [A], cohorts.RESEND_AFTER_S * 0.9)
    assert [due.wanters for due in asked.take(cohorts.RESEND_AFTER_S)] == [BOTH]


def test_a_rested_release_is_new_again():
    """After a while without any publication its devices are expected as at the first time."""
    asked = under_way()
    asked.want("pi-1", [A], cohorts.REST_S + 1)
    assert taken(asked, cohorts.REST_S + 1 + cohorts.GATHER_S) == []
    assert taken(asked, cohorts.REST_S + 1 + cohorts.START_GATHER_S) == [A]


def test_the_front_of_a_wave_is_told_when_it_moves():
    """By the id of the chunk that was sent last; not for a single device."""
    asked = under_way()
    assert asked.fronts() == {"r" * 32: A}
    assert asked.fronts() == {}
    asked.want("pi-1", [wire_keys.join(B, A)], 1.0)
    asked.take(1.0 + cohorts.GATHER_S)
    assert asked.fronts() == {"r" * 32: B}
    single = a_demand(expected=frozenset({"pi-1"}))
    single.want("pi-1", [A], 0.0)
    assert taken(single, 0.0) == [A]
    assert single.fronts() == {}


def test_what_releases_share_belongs_to_the_one_that_devices_are_to_have():
    """The old version's listing doesn't make the new one's devices unexpected."""
    asked = Demand()
    releases = [a_release(A, B, name="1" * 32), a_release(A, C, name="2" * 32, expected=frozenset())]
    asked.allow(releases=releases, devices=BOTH)
    asked.want("pi-1", [A], 0.0)
    assert taken(asked, 1.0) == []
    asked.want("pi-2", [A], 1.0)
    assert taken(asked, 1.0) == [A]


def test_only_listed_chunks_and_enrolled_devices_are_answered():
    """An id that no manifest lists, alone or as a base, no key at all, or a device that isn't enrolled: nothing."""
    asked = a_demand(A)
    asked.want("pi-1", [B, wire_keys.join(A, B), wire_keys.join(B, A), "A", ""], 0.0)
    asked.want("stranger", [A], 0.0)
    assert asked.wait_s(0.0) is None
    assert asked.take(100.0) == []


def test_what_is_withdrawn_is_not_sent():
    """A chunk that the manifests no longer list is dropped, though it was wanted; what was sent is remembered."""
    asked = under_way()
    asked.want("pi-1", [A, B, C], 0.01)
    asked.allow(releases=[a_release(A, B)], devices=BOTH)
    assert taken(asked, cohorts.GATHER_S + 0.02) == [B]
    assert taken(asked, 100.0) == [A]


def test_waiting_lasts_until_the_first_is_due():
    """The time to wait is that of the earliest chunk, never negative."""
    asked = under_way()
    assert asked.wait_s(0.0) is None
    asked.want("pi-1", [B], 1.0)
    asked.want("pi-1", [C], 1.02)
    assert asked.wait_s(1.0) == pytest.approx(cohorts.GATHER_S)
    assert asked.wait_s(5.0) == 0.0


def test_a_device_has_its_share_and_no_more():
    """A flood is cut at the burst; a second later the device has its rate again; another device isn't touched."""
    ids = [f"{number:032x}" for number in range(8000)]
    asked = a_demand(*ids)
    burst = int(scheduler.WANTS_BURST)
    asked.want("pi-1", ids[: 2 * burst], 0.0)
    assert len(everything(asked, 10.0)) == burst
    asked.want("pi-1", ids[2 * burst :], 0.5)
    assert len(everything(asked, 20.0)) == scheduler.WANTS_PER_S / 2
    asked.want("pi-2", ids[:1000], 0.5)
    assert len(everything(asked, 30.0)) == 1000


def test_pending_chunks_are_bounded():
    """However many devices ask, no more than the bound is promised at one time."""
    devices = frozenset(f"pi-{number}" for number in range(20))
    ids = [f"{number:032x}" for number in range(20_000)]
    asked = a_demand(*ids, devices=devices)
    for number, device in enumerate(sorted(devices)):
        asked.want(device, ids[number * 1000 : (number + 1) * 1000], 0.0)
    assert len(everything(asked, 10.0)) == scheduler.PENDING_MAX


def test_a_batch_is_bounded():
    """One batch holds at most its bound; the rest is due at once."""
    ids = [f"{number:032x}" for number in range(100)]
    asked = a_demand(*ids)
    asked.want("pi-1", ids, 0.0)
    assert taken(asked, 10.0) == ids[: scheduler.BATCH_MAX]
    assert asked.wait_s(10.0) == 0.0


def everything(asked: Demand, now_s: float) -> list[str]:
    """All that is due, batch by batch."""
    keys: list[str] = []
    while batch := taken(asked, now_s):
        keys += batch
    return keys
