"""Waiting times grow, are bounded, and differ between devices."""

from itertools import islice

from edgeml_io import backoff


def test_delays_double_up_to_the_bound():
    """Each with a jitter of half its length."""
    for delay_s, nominal_s in zip(islice(backoff.delays(1.0, 10.0), 8), (1, 2, 4, 8, 10, 10, 10, 10), strict=True):
        assert nominal_s / 2 <= delay_s <= nominal_s * 1.5


def test_two_devices_don_t_come_back_together():
    """Jitter is random."""
    assert len({backoff.jittered(1.0) for _ in range(10)}) == 10
