"""Times at which an update may fetch and activate: the device's daily windows, and the deployment's own time. Pure.

Windows are in local time. An update that is activating when its window closes finishes. A clock that is certainly late
names no time of day: windows are closed until it is set.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from edgeml_core import trust
from edgeml_core.daily_window import DailyWindow
from edgeml_core.desired import Deployment
from edgeml_core.errors import DeviceError


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

    def clock_error(self, now_s: float) -> DeviceError | None:
        """Return why no time can come, `clock-late`; None while the clock may be right."""
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

    def clock_error(self, now_s: float) -> None:
        """See `Calendar.clock_error`."""


class DeviceCalendar:
    """The device's windows, None for always, and the deployments' own times.

    Args:
        floor: returns a time that has certainly passed, see `edgeml_agent.trust.time_floor`.
    """

    def __init__(
        self,
        *,
        fetch: DailyWindow | None,
        activate: DailyWindow | None,
        floor: Callable[[], datetime] = lambda: trust.NO_TIME,
    ) -> None:
        self._fetch = fetch
        self._activate = activate
        self._floor = floor

    def fetch_at(self, now_s: float) -> float:
        """See `Calendar.fetch_at`."""
        return self._opens_at(self._fetch, now_s) if self._fetch else now_s

    def fetch_until(self, now_s: float) -> float | None:
        """See `Calendar.fetch_until`."""
        return self._fetch.closes_at(now_s) if self._fetch else None

    def activate_at(self, deployment: Deployment, now_s: float) -> float:
        """See `Calendar.activate_at`."""
        at_s = max(now_s, deployment.activate_after.timestamp() if deployment.activate_after else now_s)
        return self._opens_at(self._activate, at_s) if self._activate else at_s

    def clock_error(self, now_s: float) -> DeviceError | None:
        """See `Calendar.clock_error`."""
        if now_s >= (floor := self._floor()).timestamp():
            return None
        shown = f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC"
        message = (
            f"the update waits until the clock is set: it shows {shown}, and {floor:%Y-%m-%d %H:%M} UTC has passed"
        )
        return DeviceError("clock-late", message, "set the clock, or turn on NTP: timedatectl")

    def _opens_at(self, window: DailyWindow, now_s: float) -> float:
        return window.opens_at(max(now_s, self._floor().timestamp()))
