"""A relay: one device of a site pulls the site's chunks once over the network, and is the site's origin.

Towards the fleet it is a device like any other, with one connection; towards the site it has the site's own broker.
It passes signed files, chunks and calls down. It passes wants, states, reports and replies up, states and reports many
in a message.
A relay is trusted with nothing: devices verify its files and chunks as those of any origin. The host accepts its
messages only about devices of its own site.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from edgeml_agent import log
from edgeml_agent.link.link import MqttLink
from edgeml_agent.ports import Trust, TrustSource
from edgeml_agent.relay.backlog import MESSAGE_OVERHEAD_BYTES, Backlog, Sized
from edgeml_agent.relay.cache import FOLDER_NAME, Cache
from edgeml_agent.relay.files import Name, SiteFiles, SiteTrust, SiteVerifier, TargetCache
from edgeml_agent.relay.pull_through import OwnChunks, Pulls
from edgeml_agent.relay.site import Site
from edgeml_agent.settings import DeviceSettings, RelaySettings
from edgeml_core import manifest, messages, relay_batch, wire_keys
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
#: Replies of one device that are forwarded without further calls: a device replies once to each call.
CALLS_MAX: Final = 16
#: Seconds between two log lines about malformed messages of one device: a hostile one must not fill the disk.
DROPPED_LOG_EVERY_S: Final = 60.0
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
        self._deployments: frozenset[str] = frozenset()
        self._states: dict[str, Sized] = {}
        self._upward = Backlog()
        self._has_upward = asyncio.Event()
        #: Replies that each device may still send.
        self._calls: Counter[str] = Counter()
        #: When the last malformed message of each device was logged.
        self._logged_s: dict[str, float] = {}
        link.handler_topics.set_handler(self)

    def trust(
        self,
        source: TrustSource,
        verifier: Callable[[TrustSource], SiteVerifier],
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
        return SiteTrust(verifier(targets), targets, metadata, show)

    async def run(self) -> None:
        """Relay until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._site.run(self._origin, self))
            tasks.create_task(self._pulls.run())
            tasks.create_task(self._publish_upward())

    def show(self, files: SiteFiles) -> None:
        """Publish these files at the site, and serve the chunks that they list."""
        if not files.site:
            log.event("relay serves nobody", reason="its device has no label site")
        devices = {device for device, it in files.records.items() if not it.record.revoked}
        self._devices = frozenset(devices - {self._device})
        self._releases = tuple(self._announced(files.manifests))
        self._listed = {chunk_id for announced in self._releases for chunk_id in announced.ids}
        self._unlisted.clear()
        self._deployments = frozenset(it.id for it in files.document.deployments)
        self._states = {device: it for device, it in self._states.items() if device in self._devices}
        self._allow()
        self._link.handler_topics.set_topics([self._topics.call(device) for device in sorted(self._devices)])
        lines = {self._topics.record(device): it.line for device, it in files.records.items()}
        self._site.retain(lines | {self._topics.trust(*name): data for name, data in files.files.items()})

    def _announced(self, manifests: Mapping[str, bytes]) -> Iterator[AnnouncedRelease]:
        """Return the releases whose manifests this agent can read; a newer host's are for the devices alone."""
        for digest, data in manifests.items():
            try:
                entries = manifest.decode(data).files
            except RejectedError as error:
                log.failure("relay can't read a manifest", error)
                continue
            ids = frozenset(wire_keys.chunk_id(it) for entry in entries for it in entry.chunks)
            yield AnnouncedRelease(release=wire_keys.chunk_id(digest), ids=ids, devices=self._devices)

    def connected(self) -> None:
        """See `TopicHandler.connected`: the last messages may be lost, so all states are published again."""
        self._add_states()
        self._has_upward.set()

    def on_message(self, topic: str, payload: bytes) -> None:
        """See `TopicHandler.on_message`: calls from the fleet to the site's devices."""
        device = topic.split("/")[-2]
        if 0 < len(payload) <= messages.MESSAGE_MAX_BYTES:
            self._calls[device] = min(self._calls[device] + 1, CALLS_MAX)
            self._site.pass_down(topic, payload)

    def on_site_message(self, topic: str, payload: bytes) -> None:
        """See `SiteListener.on_site_message`."""
        kind, *rest = topic.removeprefix(f"{self._topics.root}/").split("/")
        device, *rest = rest or [""]
        if device not in self._devices or not payload:
            return
        try:
            match [kind, *rest]:
                case ["want"]:
                    self._pulls.want(device, messages.decode(payload, Want).keys)
                case ["device", "state"]:
                    state = messages.decode(payload, DeviceState)
                    self._pass_up(RelayedMessage(device=device, state=state), len(payload))
                case ["device", "report"]:
                    report = messages.decode(payload, Report)
                    self._pass_up(RelayedMessage(device=device, report=report), len(payload))
                case ["device", "reply"]:
                    self._pass_reply(device, topic, payload)
        except RejectedError as error:
            self._log_dropped(device, error)

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

    def _pass_up(self, message: RelayedMessage, payload_bytes: int) -> None:
        """Queue a state, or a report about a signed deployment; the host ignores all other reports."""
        if message.report is not None and message.report.deployment not in self._deployments:
            return
        sized = message, payload_bytes + MESSAGE_OVERHEAD_BYTES
        if message.state is not None:
            self._states[message.device] = sized
        self._upward.put(sized)
        self._has_upward.set()

    def _pass_reply(self, device: str, topic: str, payload: bytes) -> None:
        """Forward a reply for each call that was passed down, and no more."""
        if self._calls[device] and len(payload) <= messages.MESSAGE_MAX_BYTES:
            self._calls[device] -= 1
            self._link.forward(topic, payload)

    def _log_dropped(self, device: str, error: RejectedError) -> None:
        """Log a malformed message, for each device at most once in `DROPPED_LOG_EVERY_S`."""
        now_s = time.monotonic()
        if now_s - self._logged_s.get(device, -math.inf) >= DROPPED_LOG_EVERY_S:
            self._logged_s[device] = now_s
            log.failure("relay drops a message", error, device=device)

    def _add_states(self) -> None:
        """Queue all states again, but those that a newer one replaces."""
        for sized in self._states.values():
            if not self._upward.holds(sized[0].subject):
                self._upward.put(sized)

    async def _publish_upward(self) -> None:
        """Publish the newest message of each subject, many in one, and all states every `STATES_AGAIN_S`."""
        while True:
            try:
                await within(self._has_upward.wait(), STATES_AGAIN_S)
            except TimeoutError:
                self._add_states()
            await asyncio.sleep(BATCH_GATHER_S)
            # While the fleet's broker is slow or away, messages wait in `Backlog`, where newer ones replace them.
            await self._link.all_forwarded()
            self._has_upward.clear()
            if self._link.is_online:
                for payload in relay_batch.pack(self._upward.take()):
                    self._link.forward(self._topics.relay(self._device), payload)


def build(settings: RelaySettings, device: DeviceSettings, link: MqttLink, store: Path) -> Relay:
    """Build the relay of a device whose agent.toml has the section `[relay]`.

    Raises:
        DeviceError: `store-failed`, when its cache can't be written.
    """
    topics = Topics(device.fleet)
    site = Site(settings.broker, f"edgeml-{device.fleet}-{device.id}-relay", topics)
    return Relay(device.id, link, Cache(store / FOLDER_NAME, settings.max_bytes), site, topics)
