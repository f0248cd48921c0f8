"""A limit on the rate at which chunks arrive: a device asks for more only after the earlier chunks have had their time.

The average is exact; one window of chunks may arrive at once. Pure: the caller passes `now_s`.
"""

from __future__ import annotations


class RateLimit:
    """At most `bytes_per_s`; None sets no limit."""

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid_until_s = 0.0

    def spend(self, size_bytes: int, now_s: float) -> None:
        """Count bytes that have arrived."""
        if self._bytes_per_s is not None:
            self._paid_until_s = max(self._paid_until_s, now_s) + size_bytes / self._bytes_per_s

    def wait_s(self, now_s: float) -> float:
        """Return the seconds to wait before the next request."""
        return max(0.0, self._paid_until_s - now_s)
