"""A relay's connection to its site's broker, where it is the origin. What goes over it is `relay`'s business."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final, Protocol

from aiomqtt import Client, MqttError

from edgeml_agent import log
from edgeml_agent.link import mqtt
from edgeml_agent.link.link import RECONNECT_FIRST_S, RECONNECT_MAX_S, STABLE_S
from edgeml_agent.settings import BrokerSettings
from edgeml_core import trust
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io import backoff
from edgeml_origin.origin import Origin

_RETAINED_LAST: Final = "timestamp.json"


class SiteListener(Protocol):
    """Who hears what is said at the site."""

    def hear_site(self, topic: str, payload: bytes) -> None:
        """Take a message in; nothing about it is trusted."""
        ...


class Site:
    """One site's broker. It may be away at any time; what it should retain is told it again when it is back."""

    def __init__(self, settings: BrokerSettings, name: str, topics: Topics) -> None:
        self._url = settings.url
        self._broker = mqtt.Broker(settings, name)
        self._topics = topics
        self._retained: dict[str, bytes] = {}
        self._passing: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(mqtt.INBOX_MAX_MESSAGES)
        self._changed = asyncio.Event()

    def show(self, files: dict[str, bytes]) -> None:
        """Let the broker retain these, by topic, and no others that came from here."""
        self._retained = files
        self._changed.set()

    def pass_down(self, topic: str, payload: bytes) -> None:
        """Send a message once; it is lost when there are too many."""
        if not self._passing.full():
            self._passing.put_nowait((topic, payload))

    async def run(self, origin: Origin, ear: SiteListener) -> None:
        """Stay connected until cancelled."""
        delays = backoff.delays(RECONNECT_FIRST_S, RECONNECT_MAX_S)
        while True:
            begun = time.monotonic()
            try:
                async with self._broker.connected(None) as client:
                    log.event("relay connected", broker=self._url)
                    await self._connection(client, origin, ear)
            except* MqttError as group:
                log.failure("relay disconnected", self._unreachable(group))
            if time.monotonic() - begun > STABLE_S:
                delays = backoff.delays(RECONNECT_FIRST_S, RECONNECT_MAX_S)
            await asyncio.sleep(next(delays))

    async def _connection(self, client: Client, origin: Origin, ear: SiteListener) -> None:
        async def publish(key: str, payload: bytes) -> None:
            await client.publish(self._topics.chunk(key), payload, qos=0, timeout=math.inf)

        async def point(release: str, front: str) -> None:
            await client.publish(self._topics.wave(release), front.encode(), qos=0, retain=True)

        topics = self._topics
        heard = [(topics.want("+"), 0), (topics.state("+"), 1), (topics.report("+"), 1), (topics.reply("+"), 1)]
        await client.subscribe(heard)
        self._changed.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(client, ear))
            tasks.create_task(self._keep_retained(client))
            tasks.create_task(self._pass_all(client))
            tasks.create_task(origin.run(publish, point))

    async def _listen(self, client: Client, ear: SiteListener) -> None:
        async for message in client.messages:
            if isinstance(message.payload, bytes):
                ear.hear_site(str(message.topic), message.payload)

    async def _keep_retained(self, client: Client) -> None:
        """Publish what is new, each file before the one that names it, then clear what is shown no longer."""
        told: dict[str, bytes] = {}
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = dict(sorted(self._retained.items(), key=lambda item: _order(item[0])))
            for topic in [*wanted, *(topic for topic in told if topic not in wanted)]:
                data = wanted.get(topic, b"")
                if told.get(topic) != data:
                    await client.publish(topic, data, qos=1, retain=True)
            told = wanted

    async def _pass_all(self, client: Client) -> None:
        while True:
            topic, payload = await self._passing.get()
            await client.publish(topic, payload, qos=1)

    def _unreachable(self, group: BaseException) -> TransportError:
        while isinstance(group, BaseExceptionGroup):
            group = group.exceptions[0]
        hint = "check [relay] in agent.toml, and the site's broker; it is tried again"
        return TransportError("broker-unreachable", f"{self._url}: {group}", hint)


def _order(topic: str) -> tuple[bool, bool]:
    return topic.endswith(_RETAINED_LAST), f"/{trust.METADATA_DIR}/" in topic
