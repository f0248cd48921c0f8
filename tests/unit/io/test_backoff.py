"""Waiting times grow, are bounded, and differ between devices."""

import asyncio
import itertools
from itertools import islice

import pytest

from edgeml_io import backoff
from support import fake_time


def test_delays_double_up_to_the_bound():
    """Each with a jitter of half its length."""
    for delay_s, nominal_s in zip(islice(backoff.delays(1.0, 10.0), 8), (1, 2, 4, 8, 10, 10, 10, 10), strict=True):
        assert nominal_s / 2 <= delay_s <= nominal_s * 1.5


def test_two_devices_don_t_come_back_together():
    """Jitter is random."""
    assert len({backoff.jittered(1.0) for _ in range(10)}) == 10


def waited(monkeypatch, durations, reset=False):
    """Return the seconds before each next attempt, after attempts that lasted so many seconds; None never began."""
    monkeypatch.setattr(backoff, "jittered", lambda seconds: seconds)

    async def main(clock):
        waits, found = backoff.Backoff(1.0, 120.0), []
        for duration_s in durations:
            if duration_s is None:
                await asyncio.sleep(20.0)
            else:
                waits.began()
                await asyncio.sleep(duration_s)
            if reset:
                waits.reset()
            ended_s = clock.now_s
            await waits.wait()
            found.append(clock.now_s - ended_s)
        return found

    return fake_time.run(main)


@pytest.mark.parametrize("duration_s", [None, 0.0, backoff.USEFUL_S])
def test_attempts_that_fail_or_end_soon_are_followed_by_growing_delays(monkeypatch, duration_s):
    """An attempt that hung for 20 s lasted no time."""
    assert waited(monkeypatch, [duration_s] * 9) == [1, 2, 4, 8, 16, 32, 64, 120, 120]


def test_link_that_breaks_often_is_up_for_most_of_the_time(monkeypatch):
    """No delay after it is longer than a quarter of the connection, and growth goes on from there."""
    assert waited(monkeypatch, [20.0] * 6) == [1, 2, 4, 5, 5, 5]
    assert waited(monkeypatch, [None] * 6 + [20.0, 30.0, None, None]) == [1, 2, 4, 8, 16, 32, 5, 7.5, 15, 30]


def test_stable_connection_lets_the_delays_begin_again(monkeypatch):
    """So does the client itself, after any duration."""
    assert waited(monkeypatch, [*itertools.repeat(None, 6), backoff.STABLE_S + 1, None])[-2:] == [1, 2]
    assert waited(monkeypatch, [0.5] * 4, reset=True) == [1, 1, 1, 1]


def test_two_clients_of_one_id_close_each_other_seldom():
    """Each connection ends when the other client is back: in an hour about a hundred times, not thousands."""

    async def main(_):
        ended, connections = [asyncio.Event(), asyncio.Event()], itertools.count()

        async def client(number):
            waits = backoff.Backoff(1.0, 120.0)
            while True:
                ended[1 - number].set()
                ended[number].clear()
                next(connections)
                waits.began()
                await ended[number].wait()
                await waits.wait()

        both = [asyncio.create_task(client(number)) for number in (0, 1)]
        await asyncio.sleep(3600)
        for task in both:
            task.cancel()
        return next(connections)

    assert fake_time.run(main) < 3600 / backoff.USEFUL_S
