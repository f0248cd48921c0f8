"""The origin: it answers wants with payloads from its store.

The decision what to publish is left to `scheduler`; here are the waiting, the disk and the publishing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from edgeml_core import multi_chunk
from edgeml_core.errors import RejectedError, TransportError
from edgeml_io.aio import within
from edgeml_origin.scheduler import Due, Scheduler

_log = logging.getLogger(__name__)

#: Seconds between two publications of positions: a device that falls behind reads one at most every 1.5 s.
POSITION_EVERY_S: Final = 0.1
#: Threads that read payloads, apart from those for other work: a store that gives no answer holds all of them.
READERS: Final = 16
#: Seconds between two log lines about a store that gives no answer.
UNREAD_EVERY_S: Final = 60.0

#: Publishes one answer: its wire key, and the payload.
Publish = Callable[[str, bytes], Awaitable[None]]
#: Publishes the position of a release: the release's id, and the id of the chunk sent last.
PublishPosition = Callable[[str, str], Awaitable[None]]


class Store(Protocol):
    """The source of payloads."""

    def wire(self, key: str) -> bytes:
        """Return the payload for a wire key whose ids are listed. May block; several threads may call.

        Raises:
            RejectedError: `digest-mismatch`, when the chunk is missing or damaged.
            TransportError: when the store gives no answer, after a bounded time.
        """
        ...


class Origin:
    """Publishes the chunks that devices want. It holds no queue: `scheduler` drops wants beyond its bounds.

    Args:
        store: the source of payloads.
        max_bytes_per_s: a limit on all publications together; None sets none.
    """

    def __init__(self, store: Store, max_bytes_per_s: float | None = None) -> None:
        self.scheduler = Scheduler()
        self._store = store
        self._max_bytes_per_s = max_bytes_per_s
        self._wanted = asyncio.Event()
        self._position_s = 0.0
        self._readers = ThreadPoolExecutor(READERS, "origin")
        self._unread_s = -math.inf

    def want(self, device: str, keys: Iterable[str]) -> None:
        """Note the wants of a device."""
        self.scheduler.want(device, keys, asyncio.get_running_loop().time())
        self._wanted.set()

    async def run(self, publish: Publish, publish_position: PublishPosition) -> None:
        """Publish wanted chunks until cancelled, or until a call fails."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await within(self._wanted.wait(), self.scheduler.wait_s(clock()))
            for key, payload in _grouped(await self._answers(self.scheduler.take(clock()))):
                await publish(key, payload)
                if self._max_bytes_per_s:
                    await asyncio.sleep(len(payload) / self._max_bytes_per_s)
            await self._publish_positions(publish_position, clock())

    async def _answers(self, due: Sequence[Due]) -> list[tuple[Due, bytes]]:
        loop = asyncio.get_running_loop()
        payloads = await asyncio.gather(*(loop.run_in_executor(self._readers, self._payload, it.key) for it in due))
        return [(it, payload) for it, payload in zip(due, payloads, strict=True) if payload]

    def _payload(self, key: str) -> bytes:
        try:
            return self._store.wire(key)
        except RejectedError as error:
            _log.error("%s; publish its bundle again to repair it", error.message)
            return b""
        except TransportError as error:
            # The devices ask again.
            now_s = time.monotonic()
            if now_s - self._unread_s >= UNREAD_EVERY_S:
                self._unread_s = now_s
                _log.error("chunks can't be read, so devices wait: %s\nhint: %s", error.message, error.hint)
            return b""

    async def _publish_positions(self, publish_position: PublishPosition, now_s: float) -> None:
        if now_s - self._position_s < POSITION_EVERY_S:
            return
        for release, chunk_id in self.scheduler.take_positions().items():
            self._position_s = now_s
            await publish_position(release, chunk_id)


def _grouped(answers: Sequence[tuple[Due, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Join small answers for the same devices into one publication."""
    small: dict[frozenset[str], list[tuple[str, bytes]]] = {}
    for due, payload in answers:
        if len(payload) > multi_chunk.SMALL_MAX_BYTES:
            yield due.key, payload
        else:
            small.setdefault(due.wanters, []).append((due.key, payload))
    for group in small.values():
        for start in range(0, len(group), multi_chunk.ENTRIES_MAX):
            part = group[start : start + multi_chunk.ENTRIES_MAX]
            yield part[0] if len(part) == 1 else (part[0][0], multi_chunk.join(part))
