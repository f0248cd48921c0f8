"""A relay's connection to its site's broker, where it is the origin. The messages' meaning is left to `relay`."""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol

from edgeml_agent import log
from edgeml_agent.link.link import RECONNECT_FIRST_S, RECONNECT_MAX_S
from edgeml_agent.link.session import INBOX_MAX_MESSAGES, session
from edgeml_agent.settings import BrokerSettings
from edgeml_core import trust
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io import aio, backoff
from edgeml_io.mqtt import Connection, MqttError
from edgeml_io.packet_limit import PACKET_MAX_BYTES
from edgeml_origin.origin import Origin

#: The last level of the topic that changes last with every change: a device that sees it finds all others in place.
_PUBLISHED_LAST: Final = "/timestamp"


class SiteListener(Protocol):
    """Receives the messages of the site's devices."""

    def on_site_message(self, topic: str, payload: bytes) -> None:
        """Handle a message; nothing in it is trusted."""
        ...


class Site:
    """One site's broker. It may be away at any time; each connection publishes again the files that it shall retain."""

    def __init__(self, settings: BrokerSettings, client_id: str, topics: Topics) -> None:
        self._broker = session(settings, client_id)
        self._topics = topics
        self._retained: dict[str, bytes] = {}
        self._downward: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(INBOX_MAX_MESSAGES)
        self._changed = asyncio.Event()

    def retain(self, files: dict[str, bytes]) -> None:
        """Let the broker retain these payloads, by topic, and none of the relay's earlier ones."""
        self._retained = files
        self._changed.set()

    def pass_down(self, topic: str, payload: bytes) -> None:
        """Publish a message once; it is dropped when too many wait."""
        if not self._downward.full():
            self._downward.put_nowait((topic, payload))

    async def run(self, origin: Origin, listener: SiteListener) -> None:
        """Stay connected until cancelled."""
        waits = backoff.Backoff(RECONNECT_FIRST_S, RECONNECT_MAX_S)
        while True:
            try:
                async with self._broker.connected() as connection:
                    waits.began()
                    log.event("relay connected", broker=self._broker.url)
                    await self._serve(connection, origin, listener)
            except* MqttError as group:
                log.failure("relay disconnected", self._unreachable(group))
            await waits.wait()

    async def _serve(self, connection: Connection, origin: Origin, listener: SiteListener) -> None:
        async def publish(key: str, payload: bytes) -> None:
            await connection.publish(self._topics.chunk(key), payload, timeout_s=math.inf)

        async def publish_position(release: str, chunk_id: str) -> None:
            await connection.publish(self._topics.wave(release), chunk_id.encode(), retain=True)

        topics = self._topics
        await connection.subscribe(
            [(topics.want("+"), 0), (topics.state("+"), 1), (topics.report("+"), 1), (topics.reply("+"), 1)]
        )
        self._changed.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(connection, listener))
            tasks.create_task(self._publish_retained(connection))
            tasks.create_task(self._publish_downward(connection))
            tasks.create_task(origin.run(publish, publish_position))

    async def _receive(self, connection: Connection, listener: SiteListener) -> None:
        async for message in connection:
            listener.on_site_message(message.topic, message.payload)

    async def _publish_retained(self, connection: Connection) -> None:
        """Publish new files, each before the one that names it, then clear the old ones."""
        published: dict[str, bytes] = {}
        while True:
            await self._changed.wait()
            self._changed.clear()
            files = dict(sorted(self._retained.items(), key=lambda item: _order(item[0])))
            for topic in [*files, *(topic for topic in published if topic not in files)]:
                payload = files.get(topic, b"")
                if published.get(topic) == payload or await connection.publish(topic, payload, qos=1, retain=True):
                    continue
                message = f"{topic} has {len(payload)} bytes, more than the site's broker takes"
                hint = f"let it take {PACKET_MAX_BYTES} bytes: max_packet_size"
                log.failure("relay skips a file", TransportError("packet-too-long", message, hint))
            published = files

    async def _publish_downward(self, connection: Connection) -> None:
        while True:
            topic, payload = await self._downward.get()
            await connection.publish(topic, payload, qos=1)

    def _unreachable(self, group: BaseExceptionGroup[BaseException]) -> TransportError:
        hint = "check [relay] in agent.toml, and the site's broker; the relay tries again"
        return TransportError("broker-unreachable", f"{self._broker.url}: {aio.first_error(group)}", hint)


def _order(topic: str) -> tuple[bool, bool]:
    """Sort targets first, then metadata, then the timestamps."""
    return topic.endswith(_PUBLISHED_LAST), f"/{trust.METADATA_DIR}/" in topic
