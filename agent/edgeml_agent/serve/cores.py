"""The processor's cores, lent to the models' threads: never more threads compute than there are cores.

Fair: the thread that has waited longest is next, so a busy model delays an idle one by one run at most.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Cores:
    """Cores to borrow. Any thread may call.

    Args:
        count: the number of cores; by default those that this process may use.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._free = self.count
        self._waiting: deque[tuple[int, Lock]] = deque()
        self._lock = Lock()

    @contextmanager
    def borrowed(self, wanted: int) -> Iterator[None]:
        """Borrow `wanted` cores, at most all of them, while the block runs; blocks until they are free."""
        self._take(wanted)
        try:
            yield
        finally:
            self.give_back(wanted)

    def take_free(self, wanted: int) -> bool:
        """Borrow `wanted` cores, at most all of them, until `give_back`, if they are free and no thread waits.

        Returns:
            Whether they were borrowed.
        """
        with self._lock:
            return self._took(min(wanted, self.count))

    def give_back(self, held: int) -> None:
        """Return the cores that `take_free` lent."""
        with self._lock:
            self._free += min(held, self.count)
            while self._waiting and self._waiting[0][0] <= self._free:
                wanted, blocked = self._waiting.popleft()
                self._free -= wanted
                blocked.release()

    def yield_cores(self, held: int) -> None:
        """Between two runs of a thread that holds `held` cores: lend them to waiting threads first."""
        if self._waiting:
            self.give_back(held)
            self._take(held)

    def _take(self, wanted: int) -> None:
        wanted = min(wanted, self.count)
        with self._lock:
            if self._took(wanted):
                return
            blocked = Lock()
            blocked.acquire()
            self._waiting.append((wanted, blocked))
        blocked.acquire()

    def _took(self, wanted: int) -> bool:
        is_free = not self._waiting and wanted <= self._free
        self._free -= wanted if is_free else 0
        return is_free
