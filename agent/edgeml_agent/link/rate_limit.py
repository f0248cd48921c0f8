"""A cap on how fast chunks come in: whoever wants more waits until what came before has had its time.

On the average it holds exactly; a window of chunks may come at once. Pure: `now_s` is passed in.
"""

from __future__ import annotations


class Cap:
    """At most `bytes_per_s`; None is no cap."""

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid_until_s = 0.0

    def spend(self, size_bytes: int, now_s: float) -> None:
        """Note that so much has come."""
        if self._bytes_per_s is not None:
            self._paid_until_s = max(self._paid_until_s, now_s) + size_bytes / self._bytes_per_s

    def wait_s(self, now_s: float) -> float:
        """How long to wait before asking for more."""
        return max(0.0, self._paid_until_s - now_s)
