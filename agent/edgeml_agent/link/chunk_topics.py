"""The chunk topics that a device subscribes to, their messages, and the origin's position; `chunk_feed` connects.

Nothing received is trusted. The first message on a topic that is no longer wanted puts the topic on the list of those
to unsubscribe from: a session outlives a kill of the agent, and so do its subscriptions.
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
from edgeml_io.mqtt import Message

#: Chunks received and not stored yet: four of the largest windows; the newest of more are dropped.
ARRIVALS_MAX: Final = 256
#: Seconds without a message after which wanted chunks count as lost when the host announces itself.
STARVED_S: Final = 1.0
#: Bytes of a position: an id has 32; a longer payload is none.
POSITION_MAX_BYTES: Final = 64


class ChunkTopics:
    """Wanted keys, the followed release, and a bounded queue of arrivals."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._chunk_root, self._position_root = topics.chunk(""), topics.wave("")
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue(ARRIVALS_MAX)
        self._last_arrival_s = 0.0
        self._followed = ""
        self._subscribed: set[str] = set()
        self._to_unsubscribe: set[str] = set()
        self.wanted: set[str] = set()
        #: The id of the followed release's chunk that the origin has sent last; empty when none is known.
        self.position = ""
        self.position_known = asyncio.Event()

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """All topics to subscribe to, with their QoS."""
        return [(topic, 0) for topic in sorted(self._subscribed)]

    def want(self, keys: Collection[str]) -> list[tuple[str, int]]:
        """Add wanted keys, and return the subscriptions that are new."""
        new = [(self._topics.chunk(key), 0) for key in keys if key not in self.wanted]
        self.wanted |= set(keys)
        self._subscribed |= {topic for topic, _ in new}
        return new

    def drop(self, keys: Collection[str]) -> None:
        """Remove wanted keys."""
        self.wanted -= set(keys)
        self._unsubscribe({self._topics.chunk(key) for key in keys})

    def follow(self, release: str) -> None:
        """Follow the position of a release in place of the one before; empty follows none."""
        if self._followed:
            self._unsubscribe({self._topics.wave(self._followed)})
        if release:
            self._subscribed.add(self._topics.wave(release))
        self._followed, self.position = release, ""
        self.position_known.clear()

    def take_unsubscribed(self) -> list[str]:
        """Return the topics to unsubscribe from, each of them once."""
        topics = sorted(self._to_unsubscribe - self._subscribed)
        self._to_unsubscribe.clear()
        return topics

    def on_message(self, message: Message) -> None:
        """Queue a chunk, or note a position. Afterwards there may be topics to unsubscribe from."""
        topic = message.topic
        if topic not in self._subscribed:
            self._to_unsubscribe.add(topic)
        elif topic.startswith(self._position_root):
            self.position = message.payload[:POSITION_MAX_BYTES].decode("ascii", "replace")
            self.position_known.set()
        else:
            self._last_arrival_s = time.monotonic()
            for arrival in self._arrivals_in(topic.removeprefix(self._chunk_root), message.payload):
                with contextlib.suppress(asyncio.QueueFull):
                    self._arrivals.put_nowait(arrival)

    async def receive(self, timeout_s: float) -> Arrival | None:
        """See `ChunkSource.receive`."""
        # Not `wait_for`: a cancellation that arrives with a chunk would be lost.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._arrivals.get()
        return None

    def is_starved(self, now_s: float) -> bool:
        """Return whether keys are wanted and nothing has arrived for `STARVED_S`."""
        return bool(self.wanted) and now_s - self._last_arrival_s > STARVED_S

    @property
    def has_unsubscribed(self) -> bool:
        """Return whether there are topics to unsubscribe from."""
        return bool(self._to_unsubscribe)

    def _arrivals_in(self, key: str, payload: bytes) -> Iterator[Arrival]:
        """Split a publication: it holds one chunk, or several small ones."""
        if not (entries := multi_chunk.split(payload)):
            yield Arrival(key, payload)
            return
        for wanted in self.wanted:
            if answer := entries.get(multi_chunk.name(wanted)):
                yield Arrival(wanted, answer)

    def _unsubscribe(self, topics: set[str]) -> None:
        self._subscribed -= topics
        self._to_unsubscribe |= topics
