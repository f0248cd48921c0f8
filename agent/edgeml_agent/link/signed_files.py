"""The newest copies of the signed files that arrived, bounded; verification is left to `edgeml_agent.trust`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Final

from edgeml_agent.link.current import CurrentConnection
from edgeml_core import trust
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Message

#: Metadata files held: two repositories with some ten each, and their roots of many years.
HELD_MAX_FILES: Final = 256
#: Bytes of these files.
HELD_MAX_BYTES: Final = 32 * 1024**2
#: Seconds for a retained file after its subscription: the largest manifest takes as much at 6 Mbit/s.
RETAINED_WAIT_S: Final = 10.0
#: Seconds without a further change after which a change counts as complete: a host publishes its files in a burst.
SETTLE_S: Final = 0.3
_ROOT_SUFFIX: Final = ".root.json"


class SignedFiles:
    """Files by topic. A file that is too long is dropped, and the oldest of too many: each can be requested again."""

    def __init__(self, topics: Topics, current: CurrentConnection) -> None:
        self._topics = topics
        self._current = current
        self._changed = asyncio.Event()
        self._roots = tuple(topics.trust(repo, f"{trust.METADATA_DIR}/") for repo in trust.REPOSITORIES)
        self._held: dict[str, bytes] = {}
        self._held_bytes = 0
        self._expected: dict[str, asyncio.Future[bytes]] = {}

    @property
    def held(self) -> dict[str, bytes]:
        """All metadata held, by topic."""
        return dict(self._held)

    async def read(self, repo: str, file: str) -> bytes | None:
        """Return one signed file as the broker has it; None when there is none.

        Raises:
            TransportError: `broker-unreachable` or `broker-misbehaves`.
        """
        topic = self._topics.trust(repo, file)
        if (held := self._held.get(topic)) is not None:
            return held
        if file.endswith(_ROOT_SUFFIX):
            # The trust client asks for root N+1 until there is none: all that exist arrived with the subscription.
            return None
        connection = await self._current.get()
        with self._awaited(topic) as arrival, self._current.translated():
            await connection.subscribe([(topic, 1)])
            try:
                async with asyncio.timeout(RETAINED_WAIT_S):
                    return await arrival
            except TimeoutError:
                return None
            finally:
                await connection.unsubscribe([topic])

    async def changed(self) -> None:
        """Wait until files have changed since the last call, and until no more arrive."""
        await self._changed.wait()
        while self._changed.is_set():
            self._changed.clear()
            await asyncio.sleep(SETTLE_S)

    def restart(self) -> None:
        """Forget all files: a new connection brings those that the broker retains now. This counts as a change."""
        self._held.clear()
        self._held_bytes = 0
        self._changed.set()

    def on_message(self, message: Message) -> None:
        """Keep a file; an empty payload withdraws it."""
        topic, payload = message.topic, message.payload
        awaited = self._expected.get(topic)
        if awaited is not None and not awaited.done() and payload:
            awaited.set_result(payload)
        if topic.startswith(self._roots) and payload != self._held.get(topic, b""):
            self._hold(topic, payload)
            self._changed.set()

    @contextmanager
    def _awaited(self, topic: str) -> Iterator[asyncio.Future[bytes]]:
        """Return a future of the topic's next payload, for the time of the block."""
        future = self._expected.setdefault(topic, asyncio.get_running_loop().create_future())
        try:
            yield future
        finally:
            self._expected.pop(topic, None)

    def _hold(self, topic: str, payload: bytes) -> None:
        self._held_bytes -= len(self._held.pop(topic, b""))
        if payload and len(payload) <= trust.METADATA_MAX_BYTES:
            self._held[topic] = payload
            self._held_bytes += len(payload)
        while len(self._held) > HELD_MAX_FILES or self._held_bytes > HELD_MAX_BYTES:
            oldest = next(iter(self._held))
            self._held_bytes -= len(self._held.pop(oldest))


class BlockingFiles:
    """The link's files for the thread that verifies them: a `TrustSource`.

    Args:
        read: `SignedFiles.read`, which runs on `loop`.
        loop: the link's event loop.
    """

    def __init__(
        self, read: Callable[[str, str], Coroutine[None, None, bytes | None]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._read = read
        self._loop = loop

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        return asyncio.run_coroutine_threadsafe(self._read(repo, file), self._loop).result()
