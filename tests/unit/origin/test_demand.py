"""The origin's decisions, without MQTT."""

from __future__ import annotations

import pytest

from edgeml_origin import demand
from edgeml_origin.demand import Demand

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def a_demand(*ids: str, devices: tuple[str, ...] = ("pi-1", "pi-2")) -> Demand:
    asked = Demand()
    asked.allow(ids=frozenset(ids or (A, B, C)), devices=frozenset(devices))
    return asked


def test_wants_are_gathered_then_sent_once():
    """Two devices that want a chunk within the window share one publication, at the window's end."""
    asked = a_demand()
    asked.want("pi-1", [A], 0.0)
    asked.want("pi-2", [A, B], demand.GATHER_S / 2)
    assert asked.take(demand.GATHER_S * 0.9) == []
    assert asked.take(demand.GATHER_S) == [A]
    assert asked.take(demand.GATHER_S * 1.5) == [B]
    assert asked.take(100.0) == []


def test_a_chunk_just_sent_is_not_sent_again_at_once_but_later():
    """A want right after the publication waits until the memory of it has passed, and is then answered."""
    asked = a_demand()
    asked.want("pi-1", [A], 0.0)
    sent_s = demand.GATHER_S
    assert asked.take(sent_s) == [A]
    asked.want("pi-2", [A], sent_s + 0.01)
    assert asked.take(sent_s + demand.RESEND_AFTER_S * 0.9) == []
    assert asked.take(sent_s + demand.RESEND_AFTER_S) == [A]


def test_only_listed_chunks_and_enrolled_devices_are_answered():
    """A digest that no manifest lists, or a device that isn't enrolled, gets nothing."""
    asked = a_demand(A)
    asked.want("pi-1", [B], 0.0)
    asked.want("stranger", [A], 0.0)
    assert asked.wait_s(0.0) is None
    assert asked.take(100.0) == []


@pytest.mark.parametrize("key", [f"{A}/{B}", f"{B}/{A}", f"{A}/", f"{A}/{A}/{A}", f"/{A}", "", "A" * 32, f"{A}\n"])
def test_every_part_of_a_key_must_be_listed(key):
    """A difference names two chunks; anything that is no key is nothing."""
    asked = a_demand(A)
    asked.want("pi-1", [key, f"{A}/{A}"], 0.0)
    assert asked.take(100.0) == [f"{A}/{A}"]


def test_what_is_withdrawn_is_not_sent():
    """A chunk that the manifests no longer list is dropped, though it was wanted."""
    asked = a_demand(A, B)
    asked.want("pi-1", [A, B], 0.0)
    asked.allow(ids=frozenset({B}), devices=frozenset({"pi-1"}))
    assert asked.take(100.0) == [B]


def test_waiting_lasts_until_the_first_is_due():
    """The time to wait is that of the earliest chunk, never negative."""
    asked = a_demand()
    assert asked.wait_s(0.0) is None
    asked.want("pi-1", [A], 1.0)
    asked.want("pi-1", [B], 1.02)
    assert asked.wait_s(1.0) == pytest.approx(demand.GATHER_S)
    assert asked.wait_s(5.0) == 0.0


def test_a_device_has_its_share_and_no_more():
    """A flood is cut at the burst; a second later the device has its rate again; another device isn't touched."""
    ids = [f"{number:032x}" for number in range(4000)]
    asked = a_demand(*ids)
    asked.want("pi-1", ids[:2000], 0.0)
    assert len(everything(asked, 10.0)) == demand.WANTS_BURST
    asked.want("pi-1", ids[2000:3000], 1.0)
    assert len(everything(asked, 20.0)) == demand.WANTS_PER_S
    asked.want("pi-2", ids[3000:], 1.0)
    assert len(everything(asked, 30.0)) == 1000


def test_pending_chunks_are_bounded():
    """However many devices ask, no more than the bound is promised at one time."""
    devices = tuple(f"pi-{number}" for number in range(20))
    ids = [f"{number:032x}" for number in range(20_000)]
    asked = a_demand(*ids, devices=devices)
    for number, device in enumerate(devices):
        asked.want(device, ids[number * 1000 : (number + 1) * 1000], 0.0)
    assert len(everything(asked, 10.0)) == demand.PENDING_MAX


def test_a_batch_is_bounded():
    """One batch holds at most its bound; the rest is due at once."""
    ids = [f"{number:032x}" for number in range(100)]
    asked = a_demand(*ids)
    asked.want("pi-1", ids, 0.0)
    assert asked.take(1.0) == ids[: demand.BATCH_MAX]
    assert asked.wait_s(1.0) == 0.0


def everything(asked: Demand, now_s: float) -> list[str]:
    """All that is due, batch by batch."""
    taken: list[str] = []
    while batch := asked.take(now_s):
        taken += batch
    return taken
