"""Hours of the day: when they begin and end, over midnight and over a change to summer time."""

import time
from datetime import UTC, datetime

import pytest

from edgeml_agent.schedule import AtOnce, DeviceCalendar
from edgeml_core.daily_window import DailyWindow, parse
from edgeml_core.desired import Deployment

NIGHT = parse("22:00-05:00")
NOON = parse("11:30-13:00")


def a_deployment(activate_after=None):
    """A deployment."""
    return Deployment(
        id="d", name="m", version="1", selector="", percent=100.0, bundles=(), activate_after=activate_after
    )  # fmt: skip


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    """A machine whose local time isn't UTC."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text):
    """A local time, in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("hours", "now", "opens", "closes"),
    [
        (NOON, "2030-01-10 11:29", "2030-01-10 11:30", "2030-01-10 13:00"),
        (NOON, "2030-01-10 11:30", "2030-01-10 11:30", "2030-01-10 13:00"),
        (NOON, "2030-01-10 12:59", "2030-01-10 12:59", "2030-01-10 13:00"),
        (NOON, "2030-01-10 13:00", "2030-01-11 11:30", "2030-01-11 13:00"),
        (NIGHT, "2030-01-10 23:59", "2030-01-10 23:59", "2030-01-11 05:00"),
        (NIGHT, "2030-01-10 00:00", "2030-01-10 00:00", "2030-01-10 05:00"),
        (NIGHT, "2030-01-10 05:00", "2030-01-10 22:00", "2030-01-11 05:00"),
        (NIGHT, "2030-12-31 21:59", "2030-12-31 22:00", "2031-01-01 05:00"),
        # At 2 the clocks go on to 3: the night has six hours.
        (NIGHT, "2030-03-30 22:00", "2030-03-30 22:00", "2030-03-31 05:00"),
    ],
)
def test_hours_begin_and_end_by_local_time(hours, now, opens, closes):
    """Now, when they last; else the next time, today or tomorrow."""
    assert (hours.opens_at(at(now)), hours.closes_at(at(now))) == (at(opens), at(closes))


def test_the_night_of_summer_time_is_short():
    """Six hours pass between 22:00 and 5:00."""
    assert NIGHT.closes_at(at("2030-03-30 22:00")) - at("2030-03-30 22:00") == 6 * 3600


def test_the_night_of_winter_time_is_long():
    """Eight hours pass between 22:00 and 5:00; the hour that comes twice is inside the window both times."""
    begins, ends = at("2030-10-26 22:00"), NIGHT.closes_at(at("2030-10-26 22:00"))
    assert ends - begins == 8 * 3600
    for hour in range(8):
        now_s = begins + hour * 3600
        assert (NIGHT.opens_at(now_s), NIGHT.closes_at(now_s)) == (now_s, ends)
    assert NIGHT.opens_at(ends) == at("2030-10-27 22:00")


def test_a_window_in_the_skipped_hour_opens_on_that_day():
    """At 2 the clocks go on to 3: a window from 2:15 to 2:45 still has a next opening, after the present."""
    skipped = parse("02:15-02:45")
    now_s = at("2030-03-31 01:00")
    assert now_s < skipped.opens_at(now_s) < at("2030-03-31 05:00")


def test_seconds_within_the_last_minute_are_inside_the_window():
    """It closes at the minute, and opens again the next day."""
    assert NOON.opens_at(at("2030-01-10 12:59:59")) == at("2030-01-10 12:59:59")
    assert NOON.opens_at(at("2030-01-10 13:00:00")) == at("2030-01-11 11:30")
    assert NOON.opens_at(at("2030-01-10 11:29:59.5")) == at("2030-01-10 11:30")


def test_a_time_that_has_passed_delays_nothing():
    """A deployment for yesterday is activated now, or when the window opens."""
    now, yesterday = at("2030-01-10 12:00"), datetime(2030, 1, 9, 11, 0, tzinfo=UTC)
    assert DeviceCalendar(fetch=None, activate=NOON).activate_at(a_deployment(yesterday), now) == now
    assert DeviceCalendar(fetch=None, activate=NIGHT).activate_at(a_deployment(yesterday), now) == at(
        "2030-01-10 22:00"
    )


def test_a_deployment_for_within_the_window_is_activated_at_its_time():
    """Not when the window opens."""
    at_23 = datetime(2030, 1, 10, 22, 0, tzinfo=UTC)
    calendar = DeviceCalendar(fetch=None, activate=NIGHT)
    assert calendar.activate_at(a_deployment(at_23), at("2030-01-10 12:00")) == at("2030-01-10 23:00")


@pytest.mark.parametrize("text", ["", "22-05", "22:00", "24:00-05:00", "22:60-05:00", "05:00-05:00", "22:00-05:00 "])
def test_other_texts_are_refused(text):
    """With an example of what is meant."""
    with pytest.raises(ValueError, match="22:00-05:00"):
        parse(text)


def test_a_release_serves_when_both_its_deployment_and_the_device_let_it():
    """The later of the two; with neither, at once."""
    now = at("2030-01-10 12:00")
    deployment = a_deployment(activate_after=datetime(2030, 1, 12, 11, 0, tzinfo=UTC))
    assert DeviceCalendar(fetch=None, activate=NIGHT).activate_at(deployment, now) == at("2030-01-12 22:00")
    assert DeviceCalendar(fetch=None, activate=None).activate_at(deployment, now) == at("2030-01-12 12:00")
    assert DeviceCalendar(fetch=None, activate=None).activate_at(a_deployment(), now) == now
    assert AtOnce().activate_at(deployment, now) == now


def test_fetching_has_hours_of_its_own():
    """Always, where none are set."""
    now = at("2030-01-10 12:00")
    always, nightly = (
        DeviceCalendar(fetch=None, activate=NIGHT),
        DeviceCalendar(fetch=DailyWindow(60, 120), activate=None),
    )
    assert (always.fetch_at(now), always.fetch_until(now)) == (now, None)
    assert (nightly.fetch_at(now), nightly.fetch_until(now)) == (at("2030-01-11 01:00"), at("2030-01-11 02:00"))


@pytest.mark.parametrize("hour", [0, 12, 23])
def test_a_window_is_closed_while_the_clock_is_certainly_late(hour):
    """A board without a clock starts in 1970: its night may be noon. The window opens once the clock is set."""
    now, signed = at(f"1970-01-01 {hour:02}:30"), datetime(2030, 1, 10, 22, 30, tzinfo=UTC)
    calendar = DeviceCalendar(fetch=NIGHT, activate=NIGHT, floor=lambda: signed)
    assert calendar.fetch_at(now) == calendar.activate_at(a_deployment(), now) == signed.timestamp()
    later = at("2030-01-11 12:00")
    assert calendar.fetch_at(later) == calendar.activate_at(a_deployment(), later) == at("2030-01-11 22:00")
    always = DeviceCalendar(fetch=None, activate=None, floor=lambda: signed)
    assert always.fetch_at(now) == always.activate_at(a_deployment(), now) == now
