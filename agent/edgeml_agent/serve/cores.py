"""The processor's cores, lent to the models' threads: never more threads compute than there are cores.

Fair: whoever has waited longest is next, so a busy model can't keep a quiet one waiting for more than one run.
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
        count: how many there are; by default those that this process may use.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._free = self.count
        self._waiting: deque[tuple[int, Lock]] = deque()
        self._lock = Lock()

    @contextmanager
    def borrowed(self, wanted: int) -> Iterator[None]:
        """Have `wanted` cores, at most all of them, for as long as the block runs; waits until they are free."""
        self._take(wanted)
        try:
            yield
        finally:
            self.give_back(wanted)

    def take_free(self, wanted: int) -> bool:
        """Have `wanted` cores, at most all of them, until `give_back`, if nobody waits for that; whether it is so."""
        with self._lock:
            return self._took(min(wanted, self.count))

    def give_back(self, held: int) -> None:
        """Return what `take_free` gave."""
        with self._lock:
            self._free += min(held, self.count)
            while self._waiting and self._waiting[0][0] <= self._free:
                wanted, turn = self._waiting.popleft()
                self._free -= wanted
                turn.release()

    def yield_cores(self, held: int) -> None:
        """Between two runs of one borrower of `held` cores: those who wait have them first, then it has them back."""
        if self._waiting:
            self.give_back(held)
            self._take(held)

    def _take(self, wanted: int) -> None:
        wanted = min(wanted, self.count)
        with self._lock:
            if self._took(wanted):
                return
            turn = Lock()
            turn.acquire()
            self._waiting.append((wanted, turn))
        turn.acquire()

    def _took(self, wanted: int) -> bool:
        is_free = not self._waiting and wanted <= self._free
        self._free -= wanted if is_free else 0
        return is_free
