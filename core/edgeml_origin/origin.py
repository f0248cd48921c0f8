"""The origin: answers wants with what its store has.

What to publish is decided in `demand`; here are the waiting, the disk and the publishing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from edgeml_core import messages
from edgeml_core.errors import RejectedError
from edgeml_core.messages import Want
from edgeml_origin.demand import Demand

_log = logging.getLogger(__name__)

#: Publishes one answer: its wire key, and the payload.
Publish = Callable[[str, bytes], Awaitable[None]]


class Store(Protocol):
    """Where answers come from."""

    def wire(self, key: str) -> bytes:
        """The payload for a wire key whose ids are listed. May block.

        Raises:
            RejectedError: `digest-mismatch`, when the chunk is missing or damaged.
        """
        ...


class Origin:
    """Chunks for whoever may want them. Holds no queue: `demand` forgets what is too much."""

    def __init__(self, store: Store) -> None:
        self.demand = Demand()
        self._store = store
        self._wanted = asyncio.Event()

    def receive(self, device: str, payload: bytes) -> None:
        """Take a want message in; a malformed one is dropped."""
        try:
            want = messages.decode(payload, Want)
        except RejectedError as error:
            _log.info("a want of %s is dropped: %s", device, error.message)
            return
        self.demand.want(device, want.keys, asyncio.get_running_loop().time())
        self._wanted.set()

    async def run(self, publish: Publish) -> None:
        """Publish what is wanted, until cancelled or `publish` fails."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self.demand.wait_s(clock()))
            for key in self.demand.take(clock()):
                await self._publish(key, publish)

    async def _publish(self, key: str, publish: Publish) -> None:
        try:
            payload = await asyncio.to_thread(self._store.wire, key)
        except RejectedError as error:
            _log.error("%s; publish its bundle again to mend it", error.message)
            return
        await publish(key, payload)
