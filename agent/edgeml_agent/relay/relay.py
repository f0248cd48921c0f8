"""A relay: one device of a site pulls the site's chunks once over the network, and is the site's origin.

Towards the fleet it is a device like any other, with one connection; towards the site it has the site's own broker.
It passes signed files, chunks and calls down. It passes wants, states, reports and replies up, states and reports many
in a message.
A relay is trusted with nothing: devices verify its files and chunks as those of any origin. The host accepts its
messages only about devices of its own site.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from edgeml_agent import log
from edgeml_agent.link.link import MqttLink
from edgeml_agent.ports import Trust, TrustSource
from edgeml_agent.relay.cache import FOLDER_NAME, Cache
from edgeml_agent.relay.files import Name, SiteFiles, SiteTrust, TargetCache, site_of
from edgeml_agent.relay.pull_through import OwnChunks, Pulls
from edgeml_agent.relay.site import Site
from edgeml_agent.settings import DeviceSettings, RelaySettings
from edgeml_core import desired, manifest, messages, relay_batch, wire_keys
from edgeml_core.errors import RejectedError
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_core.relay_batch import RelayedMessage
from edgeml_io.aio import within
from edgeml_origin.cohorts import AnnouncedRelease
from edgeml_origin.origin import Origin

#: Seconds for which a device's message waits for others, to share one publication: it reaches the operator as late.
BATCH_GATHER_S: Final = 2.0
#: Seconds after which all states are published again: a broker that restarts may lose a message of QoS 1.
STATES_AGAIN_S: Final = 600.0
#: The release of all chunks that no known manifest lists: bases of deltas, and encrypted chunks.
_UNLISTED: Final = "pulled"


class Relay:
    """The relay of one site.

    Args:
        device: the relay's own id.
        link: its connection to the fleet.
        cache: the payloads that it has pulled.
        site: its connection to the site.
        topics: the fleet's topics.
    """

    def __init__(self, device: str, link: MqttLink, cache: Cache, site: Site, topics: Topics) -> None:
        self._device = device
        self._link = link
        self._site = site
        self._topics = topics
        self._origin = Origin(cache)
        #: The source of the relay's own chunks.
        self.chunks = OwnChunks(device, link.chunks, cache)
        self._pulls = self.chunks.pulls = Pulls(link.chunks, cache, self._give)
        self._devices: frozenset[str] = frozenset()
        self._releases: tuple[AnnouncedRelease, ...] = ()
        self._listed: set[str] = set()
        self._unlisted: set[str] = set()
        self._states: dict[tuple[str, str], RelayedMessage] = {}
        #: Messages of the next batch, by subject.
        self._upward: dict[tuple[str, str], RelayedMessage] = {}
        self._has_upward = asyncio.Event()
        link.handler_topics.set_handler(self)

    def trust(
        self,
        source: TrustSource,
        verifier: Callable[[TrustSource], Trust],
        metadata: Callable[[], Mapping[Name, bytes]],
    ) -> Trust:
        """Make the trust of the relay's own device; it shows the site each file that it has verified.

        Args:
            source: the source of signed files.
            verifier: makes the trust that verifies a source's files.
            metadata: reads the metadata that was verified.
        """
        loop = asyncio.get_running_loop()

        def show(files: SiteFiles) -> None:
            loop.call_soon_threadsafe(self.show, files)

        targets = TargetCache(source)
        return SiteTrust(verifier(targets), targets, metadata, self._device, show)

    async def run(self) -> None:
        """Relay until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._site.run(self._origin, self))
            tasks.create_task(self._pulls.run())
            tasks.create_task(self._publish_upward())

    def show(self, files: SiteFiles) -> None:
        """Publish these files at the site, and serve the chunks that they list."""
        site = site_of(files.document, self._device)
        if not site:
            log.event("relay serves nobody", reason="its device has no label site")
        self._devices = desired.devices_at(files.document, site) - {self._device}
        self._releases = tuple(
            AnnouncedRelease(
                release=wire_keys.chunk_id(digest),
                ids=frozenset(wire_keys.chunk_id(it) for entry in manifest.decode(data).files for it in entry.chunks),
                devices=self._devices,
            )
            for digest, data in files.manifests.items()
        )
        self._listed = {chunk_id for announced in self._releases for chunk_id in announced.ids}
        self._unlisted.clear()
        self._states = {subject: it for subject, it in self._states.items() if it.device in self._devices}
        self._allow()
        self._link.handler_topics.set_topics([self._topics.call(device) for device in sorted(self._devices)])
        self._site.retain({self._topics.trust(*name): data for name, data in files.files.items()})

    def connected(self) -> None:
        """See `TopicHandler.connected`: the last messages may be lost, so all states are published again."""
        self._upward = self._states | self._upward
        self._has_upward.set()

    def on_message(self, topic: str, payload: bytes) -> None:
        """See `TopicHandler.on_message`: calls from the fleet to the site's devices."""
        self._site.pass_down(topic, payload)

    def on_site_message(self, topic: str, payload: bytes) -> None:
        """See `SiteListener.on_site_message`."""
        kind, device, *rest = topic.removeprefix(f"{self._topics.root}/").split("/")
        if device not in self._devices or not payload:
            return
        try:
            match [kind, *rest]:
                case ["want"]:
                    self._pulls.want(device, messages.decode(payload, Want).keys)
                case ["device", "state"]:
                    self._pass_up(RelayedMessage(device=device, state=messages.decode(payload, DeviceState)))
                case ["device", "report"]:
                    self._pass_up(RelayedMessage(device=device, report=messages.decode(payload, Report)))
                case ["device", "reply"]:
                    self._link.forward(topic, payload)
        except RejectedError as error:
            log.failure("relay drops a message", error, device=device)

    def _give(self, device: str, keys: Sequence[str]) -> None:
        """Publish cached payloads for a device. The fleet's origin has answered these keys, so a release lists them."""
        if device == self._device:
            self.chunks.give(keys)
            return
        ids = {chunk_id for key in keys for chunk_id in wire_keys.ids(key)}
        if not ids <= self._listed | self._unlisted:
            self._unlisted |= ids - self._listed
            self._allow()
        self._origin.want(device, keys)

    def _allow(self) -> None:
        unlisted = AnnouncedRelease(release=_UNLISTED, ids=frozenset(self._unlisted))
        self._origin.scheduler.allow(releases=[unlisted, *self._releases], devices=self._devices)

    def _pass_up(self, message: RelayedMessage) -> None:
        self._upward.pop(message.subject, None)
        self._upward[message.subject] = message
        if message.state is not None:
            self._states[message.subject] = message
        self._has_upward.set()

    async def _publish_upward(self) -> None:
        """Publish the newest message of each subject, many in one, and all states every `STATES_AGAIN_S`."""
        while True:
            try:
                await within(self._has_upward.wait(), STATES_AGAIN_S)
            except TimeoutError:
                self._upward = self._states | self._upward
            await asyncio.sleep(BATCH_GATHER_S)
            self._has_upward.clear()
            if not self._link.is_online:
                continue
            relayed, self._upward = list(self._upward.values()), {}
            for start in range(0, len(relayed), relay_batch.MESSAGES_MAX):
                payload = relay_batch.pack(relayed[start : start + relay_batch.MESSAGES_MAX])
                self._link.forward(self._topics.relay(self._device), payload)


def build(settings: RelaySettings, device: DeviceSettings, link: MqttLink, store: Path) -> Relay:
    """Build the relay of a device whose agent.toml has the section `[relay]`.

    Raises:
        DeviceError: `store-failed`, when its cache can't be written.
    """
    topics = Topics(device.fleet)
    site = Site(settings.broker, f"edgeml-{device.fleet}-{device.id}-relay", topics)
    return Relay(device.id, link, Cache(store / FOLDER_NAME, settings.max_bytes), site, topics)
