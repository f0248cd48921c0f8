"""Reservations in a full queue: a client that is refused gets a time to come back, and a place is reserved for it then.

Without reservations a client that honoured Retry-After may be refused again. Times are whole seconds, as `Retry-After`
has them. One time is given to no more clients than the queue can take. A client is any hashable identity, such as its
connection. No clock here, and no queue.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable
from typing import Final

#: Seconds of a refusal, at least and at most; a client that can't be served within a minute comes back anyway.
RETRY_AFTER_MIN_S: Final = 1
RETRY_AFTER_MAX_S: Final = 60
#: Seconds that a client may come too early, as its clock runs, and too late: then its place is given to others.
EARLY_MAX_S: Final = 0.05
LATE_MAX_S: Final = 1.0
#: Times the service time that a request is expected to take: the gaps between runs take time, too.
SLACK: Final = 1.5


class AdmissionQueue:
    """Refused clients, each with its time on a clock of the caller's.

    Args:
        places: of the model's queue, that clients who come back may take at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._due_s: dict[Hashable, float] = {}
        #: The times for which places are reserved, and all times given; both in their order.
        self._reserved_s: list[float] = []
        self._given_s: list[float] = []

    def __len__(self) -> int:
        return len(self._given_s)

    def is_back(self, client: Hashable, now_s: float) -> bool:
        """Whether the client's time is now; its reservation ends then. Those of late clients are dropped."""
        if self._given_s and self._given_s[0] < now_s - LATE_MAX_S:
            self._drop(now_s - LATE_MAX_S)
        if self._due_s.get(client, math.inf) > now_s + EARLY_MAX_S:
            return False
        self._leave(client)
        return True

    def expected(self, until_s: float) -> int:
        """The number of clients that come back until then."""
        return bisect_right(self._reserved_s, until_s)

    def join(self, client: Hashable, now_s: float, *, room_s: float, service_s: float) -> int:
        """Give the client the first time at which there is room for it.

        Args:
            client: keeps its time if it comes before that. None gets a time without a reservation.
            room_s: seconds until the present queue leaves room.
            service_s: seconds that one request takes.

        Returns:
            The seconds until its time.
        """
        if (due_s := self._due_s.get(client)) is not None:
            self._leave(client)
            room_s = due_s - now_s
        first = max(RETRY_AFTER_MIN_S, math.ceil(room_s))
        for wait_s in range(first, RETRY_AFTER_MAX_S + 1):
            if self._has_room(now_s + wait_s, self._places * service_s * SLACK):
                self._reserve(client, now_s + wait_s)
                return wait_s
        return RETRY_AFTER_MAX_S

    def _has_room(self, at_s: float, window_s: float) -> bool:
        """Whether the queue is done with the clients before, and will be with this one before the next."""
        at = bisect_left(self._given_s, at_s)
        before = at - bisect_left(self._given_s, at_s - window_s)
        after = bisect_right(self._given_s, at_s + window_s) - at
        return max(before, after) < self._places

    def _reserve(self, client: Hashable, at_s: float) -> None:
        insort(self._given_s, at_s)
        if client is not None:
            self._due_s[client] = at_s
            insort(self._reserved_s, at_s)

    def _leave(self, client: Hashable) -> None:
        due_s = self._due_s.pop(client)
        for times_s in (self._reserved_s, self._given_s):
            del times_s[bisect_left(times_s, due_s)]

    def _drop(self, before_s: float) -> None:
        self._due_s = {client: due_s for client, due_s in self._due_s.items() if due_s >= before_s}
        for times_s in (self._reserved_s, self._given_s):
            del times_s[: bisect_left(times_s, before_s)]
