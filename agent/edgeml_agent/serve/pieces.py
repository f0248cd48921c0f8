"""The pieces of an answer on their way from the model's thread to a client, which may read more slowly than they come.

Pieces wait in a bounded queue. A client that lets more of them wait loses its own answer: slowing its text instead
would hold a place among those that are written, for as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import Final, Generic, TypeVar

from edgeml_core.errors import TransportError

T = TypeVar("T")
#: Pieces that wait for a client. One of a token with 20 log probabilities takes 8.3 KB, so they take 8.5 MB at most.
PIECES_MAX: Final = 1024


class Pieces(Generic[T]):
    """The pieces of one answer. All methods but `emit` are called on the event loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[T | None] = asyncio.Queue()
        self._answer: asyncio.Future[None] | None = None
        self._is_too_slow = False

    def emit(self, piece: T) -> None:
        """Add a piece, in the model's thread."""
        self._loop.call_soon_threadsafe(self._receive, piece)

    def end_with(self, answer: asyncio.Future[None]) -> None:
        """End the pieces with an answer, which is cancelled if the client reads too slowly."""
        self._answer = answer
        answer.add_done_callback(lambda _: self._waiting.put_nowait(None))

    async def next(self) -> T | None:
        """Wait for the next piece; None at the end.

        Raises:
            TransportError: `client-left`, when the client has read too slowly.
        """
        piece = await self._waiting.get()
        if self._is_too_slow:
            message = f"more than {PIECES_MAX} pieces of the answer waited for the client"
            raise TransportError("client-left", message, "read the answer while it is written")
        return piece

    def _receive(self, piece: T) -> None:
        if self._is_too_slow:
            return
        if self._waiting.qsize() < PIECES_MAX:
            self._waiting.put_nowait(piece)
        elif self._answer is not None and self._answer.cancel():
            self._is_too_slow = True
            while not self._waiting.empty():
                self._waiting.get_nowait()
