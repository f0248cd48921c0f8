"""Messages of a site's devices that wait for the fleet's broker: the newest of each subject, bounded in bytes.

When the bound is reached, the device that holds the most loses its oldest message. So a device that floods displaces
its own messages, and no others'.
"""

from __future__ import annotations

from typing import Final

from edgeml_core.relay_batch import RelayedMessage

#: Bytes of all messages: the states of 2,000 devices with a dozen models each.
BACKLOG_MAX_BYTES: Final = 16 * 1024**2
#: Bytes that a message takes in memory beside its payload: its Python objects.
MESSAGE_OVERHEAD_BYTES: Final = 1024

#: A message, and its size in bytes.
Sized = tuple[RelayedMessage, int]


class Backlog:
    """The messages, by device and subject."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, Sized]] = {}
        self._bytes_of: dict[str, int] = {}
        self.held_bytes = 0

    def put(self, sized: Sized) -> None:
        """Add a message in place of an older one on the same subject."""
        device, subject = sized[0].subject
        self._remove(device, subject)
        self._of.setdefault(device, {})[subject] = sized
        self._count(device, sized[1])
        while self.held_bytes > BACKLOG_MAX_BYTES:
            fullest = max(self._bytes_of, key=self._bytes_of.__getitem__)
            self._remove(fullest, next(iter(self._of[fullest])))

    def take(self) -> list[RelayedMessage]:
        """Remove all messages, and return them."""
        taken = [message for of_one in self._of.values() for message, _ in of_one.values()]
        self._of.clear()
        self._bytes_of.clear()
        self.held_bytes = 0
        return taken

    def holds(self, subject: tuple[str, str]) -> bool:
        """Return whether a message on the subject waits."""
        device, name = subject
        return name in self._of.get(device, {})

    def _remove(self, device: str, subject: str) -> None:
        if (removed := self._of.get(device, {}).pop(subject, None)) is not None:
            self._count(device, -removed[1])
            if not self._of[device]:
                del self._of[device], self._bytes_of[device]

    def _count(self, device: str, size_bytes: int) -> None:
        self._bytes_of[device] = self._bytes_of.get(device, 0) + size_bytes
        self.held_bytes += size_bytes
