"""A part of every day, such as 22:00-05:00, in a time zone: when devices update, and when a rollout goes on. Pure.

A window repeats every day and may span midnight.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo
from typing import Final

import msgspec

_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class DailyWindow(msgspec.Struct, frozen=True):
    """A part of every day, from `begin` up to `end`, in minutes after midnight.

    The methods take the zone whose midnight is meant; None is this machine's.
    """

    begin: int
    end: int

    def opens_at(self, now_s: float, zone: tzinfo | None = None) -> float:
        """Return when the window opens next, in seconds since 1970; `now_s` while it is open."""
        local = datetime.fromtimestamp(now_s, zone)
        minute = local.hour * 60 + local.minute
        is_open = (self.begin <= minute) + (minute < self.end) + (self.end < self.begin) == 2
        return now_s if is_open else _next(self.begin, local)

    def closes_at(self, now_s: float, zone: tzinfo | None = None) -> float:
        """Return when the window closes next, in seconds since 1970."""
        return _next(self.end, datetime.fromtimestamp(now_s, zone))


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


def _next(minute: int, local: datetime) -> float:
    """Return the next time of day after `local`, in seconds since 1970."""
    at = local.replace(hour=minute // 60, minute=minute % 60, second=0, microsecond=0)
    return (at if at > local else at + timedelta(days=1)).timestamp()
