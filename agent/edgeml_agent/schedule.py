"""When an update may fetch and when it may activate: the device's own hours, and the deployment's time. Pure.

Hours are of the machine's local time, every day, and may go over midnight. That nobody is disturbed outside of them is
all they promise: an update that is under way when they end finishes its swap.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from edgeml_core.desired import Deployment

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Hours(msgspec.Struct, frozen=True):
    """A part of every day, from `begin` up to `end`, in minutes after midnight."""

    begin: int
    end: int

    def opens_at(self, now_s: float) -> float:
        """When they begin next, in seconds since 1970; `now_s` while they last."""
        local = datetime.fromtimestamp(now_s)  # noqa: DTZ006 - the machine's own time is meant
        minute = local.hour * 60 + local.minute
        is_open = (self.begin <= minute) + (minute < self.end) + (self.end < self.begin) == 2
        return now_s if is_open else _next(self.begin, local)

    def closes_at(self, now_s: float) -> float:
        """When they end next."""
        return _next(self.end, datetime.fromtimestamp(now_s))  # noqa: DTZ006 - the machine's own time is meant


def parse(text: str) -> Hours:
    """Hours written as `22:00-05:00`.

    Raises:
        ValueError: they aren't.
    """
    found = _HOURS.fullmatch(text)
    if not found or found.group(1, 2) == found.group(3, 4):
        raise ValueError("must be hours of a day, for example 22:00-05:00")
    begin_h, begin_m, end_h, end_m = map(int, found.groups())
    return Hours(begin_h * 60 + begin_m, end_h * 60 + end_m)


class Calendar(Protocol):
    """When what is allowed. All times are in seconds since 1970."""

    def fetch_at(self, now_s: float) -> float:
        """When chunks may be fetched; not after `now_s` when they may be now."""
        ...

    def fetch_until(self, now_s: float) -> float | None:
        """When fetching must stop; None when it needn't."""
        ...

    def activate_at(self, wish: Deployment, now_s: float) -> float:
        """When a release may begin to serve; not after `now_s` when it may now."""
        ...


class AtOnce:
    """The calendar of an operator who stands beside the device."""

    def fetch_at(self, now_s: float) -> float:
        """See `Calendar.fetch_at`."""
        return now_s

    def fetch_until(self, now_s: float) -> float | None:  # noqa: ARG002 - it never ends
        """See `Calendar.fetch_until`."""
        return None

    def activate_at(self, wish: Deployment, now_s: float) -> float:  # noqa: ARG002 - whatever the wish says
        """See `Calendar.activate_at`."""
        return now_s


class DeviceCalendar:
    """The device's hours, None for always, and what deployments ask for."""

    def __init__(self, *, fetch: Hours | None, activate: Hours | None) -> None:
        self._fetch = fetch
        self._activate = activate

    def fetch_at(self, now_s: float) -> float:
        """See `Calendar.fetch_at`."""
        return self._fetch.opens_at(now_s) if self._fetch else now_s

    def fetch_until(self, now_s: float) -> float | None:
        """See `Calendar.fetch_until`."""
        return self._fetch.closes_at(now_s) if self._fetch else None

    def activate_at(self, wish: Deployment, now_s: float) -> float:
        """See `Calendar.activate_at`."""
        at_s = max(now_s, wish.activate_after.timestamp() if wish.activate_after else now_s)
        return self._activate.opens_at(at_s) if self._activate else at_s


def _next(minute: int, local: datetime) -> float:
    """The next time of day after `local`, as seconds since 1970."""
    at = local.replace(hour=minute // 60, minute=minute % 60, second=0, microsecond=0)
    return (at if at > local else at + timedelta(days=1)).timestamp()
