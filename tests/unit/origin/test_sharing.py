"""How often each chunk goes out to devices of different and changing speed, on virtual time.

The schedulers, windows and feeds are the real ones. `tests/integration/test_many.py` has the same on a real broker.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.simulated_fleet import Device, deliver

EIGHT = [Device()] * 8
SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_devices_on_two_busy_cores_share_publications(seed):
    """Each chunk goes out once."""
    assert deliver(EIGHT, cores=2, seed=seed).per_chunk <= 1.05


@pytest.mark.parametrize("seed", SEEDS)
def test_devices_that_stall_share_publications(seed):
    """Each stalls for up to 0.4 s at every hundredth chunk."""
    assert deliver([Device(stall_share=0.01)] * 8, cores=2, seed=seed).per_chunk <= 1.3


def test_devices_of_several_speeds_share_publications():
    """The slowest takes 2.3 times as long for a chunk as the fastest: all end together, as early as it can alone."""
    paces = [Device(chunk_s=0.004 * factor) for factor in (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6)]
    alone_s = max(deliver(paces[-1:], cores=1).done_s)
    outcome = deliver(paces, cores=8)
    assert outcome.per_chunk <= 1.1
    assert max(outcome.done_s) <= 1.25 * alone_s


def test_devices_that_start_apart_share_publications():
    """They start 0.4 s apart: the first waits for the others."""
    apart = [replace(device, starts_s=0.4 * number) for number, device in enumerate(EIGHT)]
    assert deliver(apart, cores=2).per_chunk <= 1.1


def test_slow_device_costs_others_little():
    """One that takes far longer costs one more copy at most, and the others its credit and no more."""
    without_s = max(deliver(EIGHT[:-1], cores=8).done_s)
    outcome = deliver([*EIGHT[:-1], Device(idle_s=0.1)], cores=8)
    assert outcome.per_chunk <= 2.0
    assert max(outcome.done_s[:-1]) <= without_s + 2.5
