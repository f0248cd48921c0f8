"""The order in which a fetch requests chunks: that of the files, but from the origin's position on.

A device that begins late or falls behind continues after the chunk that the origin has sent last, together with the
other devices. It requests the chunks that it has missed at the end of the round, together with all that missed them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence


class RequestOrder:
    """The chunks to request, by digest.

    Args:
        missing: all of them, in the order of the files.
        chunk_id: returns the id of a digest, as positions name it.
    """

    def __init__(self, missing: Sequence[str], chunk_id: Callable[[str], str]) -> None:
        self._waiting = deque(missing)
        self._digests = {chunk_id(digest): digest for digest in missing}
        self._position = ""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> str:
        """Take the next digest."""
        return self._waiting.popleft()

    def again(self, digests: Sequence[str]) -> None:
        """Request these again, before all others."""
        self._waiting.extendleft(reversed(digests))

    def follow(self, position: str) -> None:
        """Continue after the chunk with this id, if it is still to be requested: then this device has missed it."""
        if position == self._position:
            return
        self._position = position
        digest = self._digests.get(position, "")
        if digest in self._waiting:
            self._waiting.rotate(-1 - self._waiting.index(digest))
