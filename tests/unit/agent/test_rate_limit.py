"""The cap on what comes in."""

import pytest

from edgeml_agent.link.rate_limit import RateLimit


def test_wait_s_is_the_time_of_the_arrived_bytes():
    """Two kilobytes at one a second: two seconds, whenever they came."""
    cap = RateLimit(1000)
    assert cap.wait_s(5.0) == 0.0
    cap.spend(1500, 5.0)
    cap.spend(500, 5.5)
    assert cap.wait_s(5.5) == pytest.approx(1.5)
    assert cap.wait_s(8.0) == 0.0


def test_pause_saves_no_time():
    """After an hour of silence no more comes in a second than before."""
    cap = RateLimit(1000)
    cap.spend(1000, 3600.0)
    assert cap.wait_s(3600.0) == pytest.approx(1.0)


def test_without_a_limit_nothing_waits():
    """However much comes."""
    cap = RateLimit(None)
    cap.spend(10**9, 0.0)
    assert cap.wait_s(0.0) == 0.0
