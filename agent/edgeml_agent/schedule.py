"""Times at which an update may fetch and activate: the device's daily windows, and the deployment's own time. Pure.

Windows are in local time, repeat every day and may span midnight. An update that is activating when its window closes
finishes.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from edgeml_core.desired import Deployment

_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class DailyWindow(msgspec.Struct, frozen=True):
    """A part of every day, from `begin` up to `end`, in minutes after midnight, local time."""

    begin: int
    end: int

    def opens_at(self, now_s: float) -> float:
        """Return when the window opens next, in seconds since 1970; `now_s` while it is open."""
        local = datetime.fromtimestamp(now_s)  # noqa: DTZ006 - local time is meant
        minute = local.hour * 60 + local.minute
        is_open = (self.begin <= minute) + (minute < self.end) + (self.end < self.begin) == 2
        return now_s if is_open else _next(self.begin, local)

    def closes_at(self, now_s: float) -> float:
        """Return when the window closes next, in seconds since 1970."""
        return _next(self.end, datetime.fromtimestamp(now_s))  # noqa: DTZ006 - local time is meant


def parse(text: str) -> DailyWindow:
    """Parse a window written as `22:00-05:00`.

    Raises:
        ValueError: the text is malformed, or the window is empty.
    """
    found = _WINDOW.fullmatch(text)
    if not found or found.group(1, 2) == found.group(3, 4):
        raise ValueError("must be hours of a day, for example 22:00-05:00")
    begin_h, begin_m, end_h, end_m = map(int, found.groups())
    return DailyWindow(begin_h * 60 + begin_m, end_h * 60 + end_m)


class Calendar(Protocol):
    """Times for the steps of an update, in seconds since 1970."""

    def fetch_at(self, now_s: float) -> float:
        """Return when chunks may be fetched; at most `now_s` if they may be now."""
        ...

    def fetch_until(self, now_s: float) -> float | None:
        """Return when fetching must stop; None if it may go on."""
        ...

    def activate_at(self, deployment: Deployment, now_s: float) -> float:
        """Return when a release may be activated; at most `now_s` if it may be now."""
        ...


class AtOnce:
    """The calendar of an operator at the device: everything is permitted now."""

    def fetch_at(self, now_s: float) -> float:
        """See `Calendar.fetch_at`."""
        return now_s

    def fetch_until(self, now_s: float) -> float | None:  # noqa: ARG002 - it never ends
        """See `Calendar.fetch_until`."""
        return None

    def activate_at(self, deployment: Deployment, now_s: float) -> float:  # noqa: ARG002 - its time doesn't count
        """See `Calendar.activate_at`."""
        return now_s


class DeviceCalendar:
    """The device's windows, None for always, and the deployments' own times."""

    def __init__(self, *, fetch: DailyWindow | None, activate: DailyWindow | None) -> None:
        self._fetch = fetch
        self._activate = activate

    def fetch_at(self, now_s: float) -> float:
        """See `Calendar.fetch_at`."""
        return self._fetch.opens_at(now_s) if self._fetch else now_s

    def fetch_until(self, now_s: float) -> float | None:
        """See `Calendar.fetch_until`."""
        return self._fetch.closes_at(now_s) if self._fetch else None

    def activate_at(self, deployment: Deployment, now_s: float) -> float:
        """See `Calendar.activate_at`."""
        at_s = max(now_s, deployment.activate_after.timestamp() if deployment.activate_after else now_s)
        return self._activate.opens_at(at_s) if self._activate else at_s


def _next(minute: int, local: datetime) -> float:
    """Return the next time of day after `local`, in seconds since 1970."""
    at = local.replace(hour=minute // 60, minute=minute % 60, second=0, microsecond=0)
    return (at if at > local else at + timedelta(days=1)).timestamp()
