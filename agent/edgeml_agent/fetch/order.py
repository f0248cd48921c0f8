"""In which order the chunks of a release are asked for: that of its files, but beginning where other devices are.

Who comes late, or falls behind, goes on right after the chunk that was sent last, together with the others, and asks
for what it has missed when it has come round: together with all who missed it, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence


class Order:
    """The chunks to ask for, by digest.

    Args:
        missing: all of them, in the order of the files.
        chunk_id: how a wave calls a digest.
    """

    def __init__(self, missing: Sequence[str], chunk_id: Callable[[str], str]) -> None:
        self._waiting = deque(missing)
        self._digests = {chunk_id(digest): digest for digest in missing}
        self._position = ""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> str:
        """The next digest."""
        return self._waiting.popleft()

    def again(self, digests: Sequence[str]) -> None:
        """Ask for these again, before all others."""
        self._waiting.extendleft(reversed(digests))

    def follow(self, position: str) -> None:
        """Go on after the chunk with this id, if that is still to be asked for: then it was missed."""
        if position == self._position:
            return
        self._position = position
        digest = self._digests.get(position, "")
        if digest in self._waiting:
            self._waiting.rotate(-1 - self._waiting.index(digest))
