"""The open connections of a server, and which of them is closed where there are too many.

A connection waits for its client while it is idle, while a part of a request is missing, or while an answer isn't read.
Past the limit the one that has waited longest is closed. So a client that is silent, slow or keeps its connections open
never keeps another one from connecting. Requests have a lower limit than connections: some always wait for their
client, so a new connection always finds room. No sockets here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from edgeml_agent import log

#: Open connections, where the process may open enough files. Each takes about 20 kB.
CONNECTIONS_MAX: Final = 256
#: Files that the rest of the process opens: the store, models, the broker, and connections just accepted.
OTHER_FILES: Final = 64
#: Open connections, however few files the process may open.
CONNECTIONS_MIN: Final = 8
#: Of eight connections, one is for new clients, and six may have requests of one address.
_NEW_EIGHTHS: Final = 1
_ADDRESS_EIGHTHS: Final = 6
#: Seconds between two lines of the log about closed connections.
LOGGED_EVERY_S: Final = 60.0


class Connection(Protocol):
    """A connection, as this module sees it.

    Attributes:
        address: `http_hosts.address_of` its client.
    """

    address: str

    def waits_since_s(self) -> float | None:
        """The time of the last byte from or to the client, on the event loop's clock; None while the server works."""

    def abort(self) -> None:
        """Close the connection at once."""


def limit(files_max: int) -> int:
    """The number of connections for a process that may open `files_max` files."""
    return max(CONNECTIONS_MIN, min(CONNECTIONS_MAX, files_max - OTHER_FILES))


class OpenConnections:
    """The open connections of a server.

    Args:
        most: the number of connections at a time.
        clock: seconds, which only go forward.

    Attributes:
        requests_max: the number of requests at a time, those of all addresses.
        requests_of_address_max: the same for one address.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests_max: Final = most - most * _NEW_EIGHTHS // 8
        self.requests_of_address_max: Final = most * _ADDRESS_EIGHTHS // 8
        self._most = most
        self._clock = clock
        self._open: set[Connection] = set()
        self._with_request: set[Connection] = set()
        self._closed = 0
        self._logged_s = -LOGGED_EVERY_S

    def __len__(self) -> int:
        return len(self._open)

    def add(self, new: Connection) -> None:
        """Count a new connection; past the limit close the one that has waited longest."""
        if len(self._open) >= self._most and not self._close_one(self._open):
            self._close(new)
            return
        self._open.add(new)

    def remove(self, one: Connection) -> None:
        """Forget a connection, with its request."""
        self._open.discard(one)
        self._with_request.discard(one)

    def has_room(self, asking: Connection) -> bool:
        """Whether `asking` may begin a request; past a limit the request of a slow client makes room for it."""
        if len(self._with_request) < min(self.requests_of_address_max, self.requests_max):
            return True
        own = [it for it in self._with_request if it.address == asking.address]
        if len(own) >= self.requests_of_address_max:
            return self._close_one(own)
        return len(self._with_request) < self.requests_max or self._close_one(self._with_request)

    def begin(self, one: Connection) -> None:
        """Count the request of a connection, until `end` or `remove`."""
        self._with_request.add(one)

    def end(self, one: Connection) -> None:
        """The request of the connection is answered."""
        self._with_request.discard(one)

    def _close_one(self, among: Iterable[Connection]) -> bool:
        """Close the connection that has waited longest for its client, if one does."""
        waiting = [(since_s, it) for it in among if (since_s := it.waits_since_s()) is not None]
        if not waiting:
            return False
        _, longest = min(waiting, key=lambda pair: pair[0])
        self._close(longest)
        return True

    def _close(self, one: Connection) -> None:
        self.remove(one)
        one.abort()
        self._closed += 1
        now_s = self._clock()
        if now_s - self._logged_s >= LOGGED_EVERY_S:
            log.event("connections closed, since there were too many", closed=self._closed, limit=self._most)
            self._closed, self._logged_s = 0, now_s
