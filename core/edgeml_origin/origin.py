"""The origin: answers wants with what its store has.

What to publish is decided in `demand`; here are the waiting, the disk and the publishing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from edgeml_core import multi_chunk
from edgeml_core.errors import RejectedError
from edgeml_io.aio import within
from edgeml_origin.scheduler import Demand, Due

_log = logging.getLogger(__name__)

#: How often the position of a wave is told.
POINT_EVERY_S: Final = 0.1

#: Publishes one answer: its wire key, and the payload.
Publish = Callable[[str, bytes], Awaitable[None]]
#: Tells where the wave of a release is: the release's id, and that of the chunk sent last.
Point = Callable[[str, str], Awaitable[None]]


class Store(Protocol):
    """Where answers come from."""

    def wire(self, key: str) -> bytes:
        """The payload for a wire key whose ids are listed. May block; several threads may ask.

        Raises:
            RejectedError: `digest-mismatch`, when the chunk is missing or damaged.
        """
        ...


class Origin:
    """Chunks for whoever may want them. Holds no queue: `demand` forgets what is too much.

    Args:
        max_bytes_per_s: what all publications together may take; None for no limit.
    """

    def __init__(self, store: Store, max_bytes_per_s: float | None = None) -> None:
        self.demand = Demand()
        self._store = store
        self._max_bytes_per_s = max_bytes_per_s
        self._wanted = asyncio.Event()
        self._pointed_s = 0.0

    def want(self, device: str, keys: Iterable[str]) -> None:
        """Note what a device wants."""
        self.demand.want(device, keys, asyncio.get_running_loop().time())
        self._wanted.set()

    async def run(self, publish: Publish, point: Point) -> None:
        """Publish what is wanted, until cancelled or a call fails."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await within(self._wanted.wait(), self.demand.wait_s(clock()))
            for key, payload in _together(await self._answers(self.demand.take(clock()))):
                await publish(key, payload)
                if self._max_bytes_per_s:
                    await asyncio.sleep(len(payload) / self._max_bytes_per_s)
            await self._point(point, clock())

    async def _answers(self, due: Sequence[Due]) -> list[tuple[Due, bytes]]:
        payloads = await asyncio.gather(*(asyncio.to_thread(self._payload, it.key) for it in due))
        return [(it, payload) for it, payload in zip(due, payloads, strict=True) if payload]

    def _payload(self, key: str) -> bytes:
        try:
            return self._store.wire(key)
        except RejectedError as error:
            _log.error("%s; publish its bundle again to mend it", error.message)
            return b""

    async def _point(self, point: Point, now_s: float) -> None:
        if now_s - self._pointed_s < POINT_EVERY_S:
            return
        for release, front in self.demand.fronts().items():
            self._pointed_s = now_s
            await point(release, front)


def _together(answers: Sequence[tuple[Due, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The publications for answers: one for several small ones that the same devices want."""
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
