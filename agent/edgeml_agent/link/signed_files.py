"""The newest copies of the signed files that came over the link, bounded. Judging them is `trust`'s business."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Final

from edgeml_core import trust
from edgeml_core.messages import Topics

HELD_MAX_FILES: Final = 256
HELD_MAX_BYTES: Final = 32 * 1024**2


class SignedFiles:
    """Files by topic. What is too long is not kept, and the oldest of too many go: each can be asked for again."""

    def __init__(self, topics: Topics) -> None:
        self.changed = asyncio.Event()
        self._topics = topics
        self._roots = tuple(topics.trust(repo, f"{trust.METADATA_DIR}/") for repo in trust.REPOSITORIES)
        self._held: dict[str, bytes] = {}
        self._held_bytes = 0
        self._expected: dict[str, asyncio.Future[bytes]] = {}

    def get(self, repo: str, file: str) -> bytes | None:
        """The newest copy held."""
        return self._held.get(self._topics.trust(repo, file))

    @property
    def held(self) -> dict[str, bytes]:
        """All metadata held, by topic."""
        return dict(self._held)

    def forget(self) -> None:
        """Forget all: a new connection brings what the broker retains now, and what it doesn't is gone."""
        self._held.clear()
        self._held_bytes = 0

    def take(self, topic: str, payload: bytes) -> None:
        """Keep a file that arrived; an empty payload is a file withdrawn."""
        waiting = self._expected.get(topic)
        if waiting is not None and not waiting.done() and payload:
            waiting.set_result(payload)
        if topic.startswith(self._roots) and payload != self._held.get(topic, b""):
            self._hold(topic, payload)
            self.changed.set()

    @contextmanager
    def expected(self, topic: str) -> Iterator[asyncio.Future[bytes]]:
        """The next payload of `topic`, for as long as the block runs."""
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
    """The link's files for a thread that judges them: a `TrustSource`.

    Args:
        file: the link's method, which runs on `loop`.
    """

    def __init__(
        self, file: Callable[[str, str], Coroutine[None, None, bytes | None]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._file = file
        self._loop = loop

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        return asyncio.run_coroutine_threadsafe(self._file(repo, file), self._loop).result()
