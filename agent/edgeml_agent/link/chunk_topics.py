"""The chunk topics that a device listens to, what came on them, and where the wave is. No client here: `link` has it.

Nothing that came is trusted; a topic that nobody wants any more is left at its first message.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator
from typing import Final

from edgeml_agent.ports import Arrival
from edgeml_core import multi_chunk
from edgeml_core.messages import Topics

ARRIVALS_MAX: Final = 256
STARVED_S: Final = 1.0
#: An id, or what a rogue says instead.
POSITION_MAX_BYTES: Final = 64


class ChunkTopics:
    """Wanted keys, the followed wave, and a bounded queue of arrivals."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._chunk_root, self._wave_root = topics.chunk(""), topics.wave("")
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue(ARRIVALS_MAX)
        self._came_s = 0.0
        self._followed = ""
        self._listened: set[str] = set()
        self._to_leave: set[str] = set()
        self.wanted: set[str] = set()
        #: The id of the chunk that was sent last of the followed release; empty when nobody says.
        self.position = ""
        self.positioned = asyncio.Event()

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """All topics to listen to, with their QoS."""
        return [(topic, 0) for topic in sorted(self._listened)]

    def want(self, keys: Collection[str]) -> list[tuple[str, int]]:
        """Listen for keys; the new subscriptions."""
        new = [(self._topics.chunk(key), 0) for key in keys if key not in self.wanted]
        self.wanted |= set(keys)
        self._listened |= {topic for topic, _ in new}
        return new

    def drop(self, keys: Collection[str]) -> None:
        """Listen for these no longer."""
        self.wanted -= set(keys)
        self._leave({self._topics.chunk(key) for key in keys})

    def follow(self, release: str) -> None:
        """Listen to the wave of a release, and no longer to the one before; empty for none."""
        if self._followed:
            self._leave({self._topics.wave(self._followed)})
        if release:
            self._listened.add(self._topics.wave(release))
        self._followed, self.position = release, ""
        self.positioned.clear()

    def left(self) -> list[str]:
        """The topics to leave now; they count as left."""
        left = sorted(self._to_leave - self._listened)
        self._to_leave.clear()
        return left

    def take(self, topic: str, payload: bytes) -> bool:
        """Take a message in; false when it isn't for here. After it there may be topics to leave."""
        if not topic.startswith((self._chunk_root, self._wave_root)):
            return False
        if topic not in self._listened:
            self._to_leave.add(topic)
        elif topic.startswith(self._wave_root):
            self.position = payload[:POSITION_MAX_BYTES].decode("ascii", "replace")
            self.positioned.set()
        else:
            self._came_s = time.monotonic()
            for arrival in self._answers(topic.removeprefix(self._chunk_root), payload):
                with contextlib.suppress(asyncio.QueueFull):
                    self._arrivals.put_nowait(arrival)
        return True

    async def receive(self, timeout_s: float) -> Arrival | None:
        """See `ChunkSource.receive`."""
        # Not `wait_for`: cancelled as a chunk comes, that one would go on.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._arrivals.get()
        return None

    def is_starved(self, now_s: float) -> bool:
        """Whether something is wanted, and nothing has come for a while."""
        return bool(self.wanted) and now_s - self._came_s > STARVED_S

    @property
    def has_to_leave(self) -> bool:
        """Whether `left` would name any."""
        return bool(self._to_leave)

    def _answers(self, key: str, payload: bytes) -> Iterator[Arrival]:
        """The answers in a publication: one, or several small ones."""
        if not (entries := multi_chunk.split(payload)):
            yield Arrival(key, payload)
            return
        for wanted in self.wanted:
            if answer := entries.get(multi_chunk.name(wanted)):
                yield Arrival(wanted, answer)

    def _leave(self, topics: set[str]) -> None:
        self._listened -= topics
        self._to_leave |= topics
