"""The inbox of a connection: bounded by number and bytes, with room that a flood on some topics leaves to others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import aiomqtt


class Inbox(asyncio.Queue[aiomqtt.Message]):
    """Messages received and not handled yet, bounded by number and bytes; the newest of too many are dropped.

    Those on a topic that `yields` are dropped when half of it is full.
    """

    def __init__(
        self, maxsize: int = 0, *, max_bytes: float = math.inf, yields: Callable[[str], bool] = lambda _: False
    ) -> None:
        super().__init__(maxsize)
        self._max_bytes = max_bytes
        self._yields = yields
        self._held_bytes = 0

    def put_nowait(self, item: aiomqtt.Message) -> None:
        """Add a message.

        Raises:
            asyncio.QueueFull: there is no room for it.
        """
        is_half_full = self.qsize() * 2 >= (self.maxsize or math.inf) or self._held_bytes * 2 >= self._max_bytes
        if is_half_full and self._yields(str(item.topic)):
            raise asyncio.QueueFull
        super().put_nowait(item)

    def full(self) -> bool:
        """Return whether there is no room for another message."""
        return super().full() or self._held_bytes >= self._max_bytes

    def _put(self, item: aiomqtt.Message) -> None:
        self._held_bytes += len(item.payload)
        super()._put(item)

    def _get(self) -> aiomqtt.Message:
        item: aiomqtt.Message = super()._get()
        self._held_bytes -= len(item.payload)
        return item
