"""Who was refused, and when each may come back: a place in the queue is kept for it, so that waiting is worth it.

Without that whoever happens to ask when a place is free has it, and who does as it was told comes back in vain. Times
are whole seconds, as `Retry-After` has them: no more clients are told the same moment than the queue can take. A client
is whatever the caller knows it by, such as its connection. No clock here, and no queue.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable
from contextvars import ContextVar
from typing import Final

#: Who asks, in the context of its request; None where that isn't known.
CLIENT: ContextVar[Hashable] = ContextVar("client", default=None)
RETRY_AFTER_MIN_S: Final = 1
RETRY_AFTER_MAX_S: Final = 60
#: A client may come so much too early, as its clock runs, and so much too late: then its place is given to others.
EARLY_MAX_S: Final = 0.05
LATE_MAX_S: Final = 1.0
#: So many times as long as its run a request is taken to need: what lies between two runs takes time, too.
SLACK: Final = 1.5


class AdmissionQueue:
    """Clients that were told to come back, each with its time on a clock of the caller's.

    Args:
        places: of the queue, that those who come back may take at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._due_s: dict[Hashable, float] = {}
        #: The times for which places are kept, and all that were told; both in their order.
        self._kept_s: list[float] = []
        self._told_s: list[float] = []

    def __len__(self) -> int:
        return len(self._told_s)

    def is_back(self, client: Hashable, now_s: float) -> bool:
        """Whether the client was told to come now; it leaves the line. Those that come too late are forgotten."""
        if self._told_s and self._told_s[0] < now_s - LATE_MAX_S:
            self._forget(now_s - LATE_MAX_S)
        if self._due_s.get(client, math.inf) > now_s + EARLY_MAX_S:
            return False
        self._leave(client)
        return True

    def expected(self, until_s: float) -> int:
        """How many come back until then."""
        return bisect_right(self._kept_s, until_s)

    def join(self, client: Hashable, now_s: float, *, room_s: float, service_s: float) -> int:
        """Put the client at the first time at which there is room for it; the seconds until then.

        Args:
            client: who doesn't wait for its time keeps it. None is told a time, but no place is kept for it.
            room_s: after so long what is queued now leaves room.
            service_s: how long one request takes.
        """
        if (due_s := self._due_s.get(client)) is not None:
            self._leave(client)
            room_s = due_s - now_s
        first = max(RETRY_AFTER_MIN_S, math.ceil(room_s))
        for wait_s in range(first, RETRY_AFTER_MAX_S + 1):
            if self._has_room(now_s + wait_s, self._places * service_s * SLACK):
                self._keep(client, now_s + wait_s)
                return wait_s
        return RETRY_AFTER_MAX_S

    def _has_room(self, at_s: float, window_s: float) -> bool:
        """Whether the queue has done with those before, and will have with this one before the next."""
        at = bisect_left(self._told_s, at_s)
        before = at - bisect_left(self._told_s, at_s - window_s)
        after = bisect_right(self._told_s, at_s + window_s) - at
        return max(before, after) < self._places

    def _keep(self, client: Hashable, at_s: float) -> None:
        insort(self._told_s, at_s)
        if client is not None:
            self._due_s[client] = at_s
            insort(self._kept_s, at_s)

    def _leave(self, client: Hashable) -> None:
        due_s = self._due_s.pop(client)
        for times_s in (self._kept_s, self._told_s):
            del times_s[bisect_left(times_s, due_s)]

    def _forget(self, before_s: float) -> None:
        self._due_s = {client: due_s for client, due_s in self._due_s.items() if due_s >= before_s}
        for times_s in (self._kept_s, self._told_s):
            del times_s[: bisect_left(times_s, before_s)]
