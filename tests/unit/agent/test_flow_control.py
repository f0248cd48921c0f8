"""The pace of a fetch, on roads that only exist as numbers."""

from collections import deque

import pytest

from edgeml_agent.fetch import flow_control
from edgeml_agent.fetch.flow_control import FlowControl


def drive(chunk_s, way_s, count=400):
    """Fetch chunks over a road that takes `chunk_s` for each, one after the other, and `way_s` there and back.

    Returns:
        The pace at the end, the windows it had, and how long the road was idle once all was going.
    """
    at, free_s, now_s, idle_s = FlowControl(), 0.0, 0.0, 0.0
    flying: deque[tuple[float, float]] = deque()
    windows, asked, came = [], 0, 0
    while came < count:
        if len(flying) <= at.window // 2:
            at.adapt(now_s)
            windows.append(at.window)
            while len(flying) < at.window and asked < count:
                begins_s = max(free_s, now_s + way_s)
                idle_s += begins_s - free_s if came > count // 2 else 0.0
                free_s = begins_s + chunk_s
                flying.append((free_s, now_s))
                asked += 1
        now_s, wanted_s = flying.popleft()
        at.on_arrival(now_s, wanted_s)
        came += 1
    return at, windows, idle_s / now_s


@pytest.mark.parametrize(
    ("chunk_s", "way_s"),
    [(0.0005, 0.001), (0.005, 0.1), (0.26, 0.3), (0.26, 2.0), (10.5, 0.3), (0.013, 0.3)],
    ids=["loopback", "100 Mbit/s", "2 Mbit/s", "satellite", "50 kbit/s", "differences on 2 Mbit/s"],
)
def test_window_keeps_every_network_busy(chunk_s, way_s):
    """Once the window has grown, the road is never idle for more than a hundredth of the time."""
    _, _, idle = drive(chunk_s, way_s)
    assert idle < 0.01


@pytest.mark.parametrize("chunk_s", [0.26, 1.0, 10.5])
def test_window_of_a_slow_network_is_small(chunk_s):
    """No more than twice what it carries in the time ahead, or four chunks."""
    at, windows, _ = drive(chunk_s, 0.05)
    assert at.window * chunk_s <= max(2 * flow_control.AHEAD_S, 2 * chunk_s)
    assert max(windows) <= max(flow_control.FIRST_CHUNKS, 4 * flow_control.AHEAD_S / chunk_s)


def test_window_of_a_fast_network_is_bounded():
    """The window is bounded all the same."""
    at, windows, _ = drive(0.0001, 0.001)
    assert at.window == max(windows) == flow_control.MOST_CHUNKS


def test_on_loss_halves_the_window():
    """Down to the least."""
    at, *_ = drive(0.0001, 0.001)
    at.on_loss()
    assert at.window == flow_control.MOST_CHUNKS // 2
    for _ in range(10):
        at.on_loss()
    assert at.window == flow_control.LEAST_CHUNKS


def test_silence_s_follows_the_longest_pause():
    """Seconds on a fast road, longer than a chunk takes on a slow one, and twice as long after each silence."""
    assert FlowControl().silence_s == flow_control.FIRST_SILENCE_S
    begun = FlowControl()
    begun.on_arrival(11.0, 0.0)
    assert begun.silence_s == pytest.approx(4 * 11.0)
    fast, *_ = drive(0.001, 0.01)
    assert fast.silence_s == flow_control.SILENCE_S
    slow, *_ = drive(10.5, 0.3)
    assert slow.silence_s == pytest.approx(4 * 10.5)
    assert fast.on_silence() == 1
    assert fast.silence_s == 2 * flow_control.SILENCE_S
    for _ in range(10):
        slow.on_silence()
    assert slow.silence_s == flow_control.SILENCE_MAX_S
    slow.on_arrival(1e6, 1e6)
    assert slow.on_silence() == 1


def test_is_overtaken_after_two_windows():
    """Not while it was wanted just now: it may be sent again for several devices together."""
    at = FlowControl()
    assert at.is_overtaken(by=2 * at.window + 1, wanted_s=0.0, now_s=10.0)
    assert not at.is_overtaken(by=2 * at.window, wanted_s=0.0, now_s=10.0)
    assert not at.is_overtaken(by=100, wanted_s=0.0, now_s=1.0)
