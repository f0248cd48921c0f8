"""The newest copies of the signed files that arrived, bounded; verification is left to `edgeml_agent.trust`.

A device subscribes to exact topics only, since not every broker sends retained messages to a wildcard. It always
follows the newest root and the timestamp of both repositories. Of each other role it follows the file that was read
last, so that it notices when the host repairs a forged one. A target is subscribed to for the time of its reading.

It follows its own record from the start, and a relay the records of its site since it first read them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Final

from edgeml_agent.link.current import CurrentConnection
from edgeml_core import trust
from edgeml_core.messages import Topics
from edgeml_io.mqtt import Message

#: Bytes of all metadata held, of two repositories together; python-tuf takes at most 8 MB of each.
HELD_MAX_BYTES: Final = 32 * 1024**2
#: Seconds after which a retained file counts as missing, unless the broker is sending it: an answer takes a round trip.
RETAINED_WAIT_S: Final = 10.0
#: Seconds without a further change after which a change counts as complete: a host publishes its files in a burst.
SETTLE_S: Final = 0.3
#: Roles of topics that aren't metadata.
_RECORD: Final = "record"
_SITE: Final = "site"
_NUMBERED_ROOT: Final = re.compile(rf"{trust.METADATA_DIR}/(\d+)\.root\.json")


class SignedFiles:
    """Files by topic. A file that is too long is dropped: it can be requested again."""

    def __init__(self, topics: Topics, current: CurrentConnection, device: str) -> None:
        self._topics = topics
        self._device = device
        self._current = current
        self._changed = asyncio.Event()
        #: Followed topics by role and repository. A host publishes the timestamp last, so it is subscribed to last.
        self._followed = {_RECORD: topics.record(device)} | {
            _role(repo, file): topics.trust(repo, file)
            for file in (trust.NEWEST_ROOT_FILE, trust.TIMESTAMP_FILE)
            for repo in trust.REPOSITORIES
        }
        self._held: dict[str, bytes] = {}
        self._held_bytes = 0
        #: Whether the records of the site were waited for on this connection: a site without any costs one wait.
        self._has_awaited_site = False
        #: The records of the site that an earlier connection brought, by topic.
        self._earlier_site: dict[str, bytes] = {}
        self._expected: dict[str, asyncio.Future[bytes]] = {}

    @property
    def held(self) -> dict[str, bytes]:
        """All metadata held, by topic."""
        return dict(self._held)

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """The topics that a connection subscribes to, with their QoS."""
        return [(topic, 1) for topic in self._followed.values()]

    async def read(self, repo: str, file: str) -> bytes | None:
        """Return one signed file as the broker has it; None when there is none.

        Raises:
            TransportError: `broker-unreachable` or `broker-misbehaves`.
        """
        topic = self._topics.trust(repo, file)
        if (held := self._held.get(topic)) is not None:
            return held
        if (numbered := _NUMBERED_ROOT.fullmatch(file)) is not None:
            # The trust client asks for root N+1 until there is none. The newest root tells without a wait.
            newest, number = await self.read(repo, trust.NEWEST_ROOT_FILE) or b"", int(numbered[1])
            if (last := trust.unverified_version(newest)) <= number:
                return newest if last == number else None
        return await self._request(topic, _role(repo, file))

    async def record(self, device: str) -> bytes | None:
        """Return the record of this device, as far as one has arrived.

        It doesn't wait for one: a device has the record of its enrolment, and looks again when another arrives.
        """
        return self._held.get(self._topics.record(device))

    async def site(self, site: str) -> bytes | None:
        """Return the records of a site's devices, and follow them; None when there are none.

        Those of an earlier connection count until this one brings others, which may take long. Errors are those of
        `read`.
        """
        topic = self._topics.site(site)
        is_followed = self._followed.get(_SITE) == topic
        if is_followed and (self._has_awaited_site or topic in self._held):
            return self._held.get(topic, self._earlier_site.get(topic))
        self._has_awaited_site = True
        return await self._request(topic, _SITE) or self._earlier_site.get(topic)

    async def changed(self) -> None:
        """Wait until files have changed since the last call, and until no more arrive."""
        await self._changed.wait()
        while self._changed.is_set():
            self._changed.clear()
            await asyncio.sleep(SETTLE_S)

    def restart(self) -> None:
        """Forget all files: a new connection brings those that the broker retains now. This counts as a change."""
        topic = self._followed.get(_SITE, "")
        if topic in self._held:
            self._earlier_site = {topic: self._held[topic]}
        self._held.clear()
        self._held_bytes = 0
        self._has_awaited_site = False
        self._changed.set()

    def on_message(self, message: Message) -> None:
        """Keep a file; an empty payload withdraws it."""
        topic, payload = message.topic, message.payload
        self._earlier_site.pop(topic, None)
        awaited = self._expected.get(topic)
        is_awaited = awaited is not None and not awaited.done() and bool(payload)
        if awaited is not None and is_awaited:
            awaited.set_result(payload)
        if topic in self._followed.values() and payload != self._held.get(topic, b""):
            self._hold(topic, payload)
            if not is_awaited:
                self._changed.set()

    async def _request(self, topic: str, role: str) -> bytes | None:
        """Subscribe to a topic, and wait for its file; metadata replaces its role's earlier subscription."""
        connection = await self._current.get()
        with self._awaited(topic) as arrival, self._current.translated():
            earlier = [] if self._followed.get(role, topic) == topic else [self._followed[role]]
            if role:
                self._followed[role] = topic
            await connection.subscribe([(topic, 1)])
            for old in earlier:
                self._hold(old, b"")
                await connection.unsubscribe([old])
            try:
                await asyncio.wait([arrival], timeout=RETAINED_WAIT_S)
            finally:
                if not role:
                    # The broker confirms behind a file that it still sends, which takes a minute on a slow network.
                    await connection.unsubscribe([topic])
            if not role:
                # The confirmation may overtake the file in the inbox.
                await asyncio.wait([arrival], timeout=SETTLE_S)
            return arrival.result() if arrival.done() else None

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
        fits = len(payload) <= trust.METADATA_MAX_BYTES and self._held_bytes + len(payload) <= HELD_MAX_BYTES
        if payload and fits:
            self._held[topic] = payload
            self._held_bytes += len(payload)


class BlockingFiles:
    """The link's files for the thread that verifies them: a `TrustSource`.

    Args:
        signed: the files; their coroutines run on `loop`.
        loop: the link's event loop.
    """

    def __init__(self, signed: SignedFiles, loop: asyncio.AbstractEventLoop) -> None:
        self._signed = signed
        self._loop = loop

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        return self._wait(self._signed.read(repo, file))

    def record(self, device: str) -> bytes | None:
        """See `TrustSource.record`."""
        return self._wait(self._signed.record(device))

    def site(self, site: str) -> bytes | None:
        """See `TrustSource.site`."""
        return self._wait(self._signed.site(site))

    def _wait(self, reading: Coroutine[None, None, bytes | None]) -> bytes | None:
        return asyncio.run_coroutine_threadsafe(reading, self._loop).result()


def _role(repo: str, file: str) -> str:
    """Return a metadata file's repository and name without its number; empty for a target."""
    folder, _, name = file.rpartition("/")
    return f"{repo}/{name.lstrip('0123456789')}" if folder == trust.METADATA_DIR else ""
