"""A relay: one device of a site pulls what the site's devices want once over the network, and is their origin.

Towards the fleet it is the device that it always was, with one connection; towards the site it has a broker of the
site's own. Down go signed files, chunks and calls; up go wants, and what devices say, many together. A relay is
trusted with nothing: devices verify what comes from it as from any origin, and what it says of devices counts for those
of its own site only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgeml_agent import log
from edgeml_agent.link.link import MqttLink
from edgeml_agent.ports import Trust, TrustSource
from edgeml_agent.relay.cache import FOLDER_NAME, Cache
from edgeml_agent.relay.files import Remembered, SiteFiles, SiteTrust, site_of
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

#: How long what devices say waits for more, so that one message takes all; an operator who watches sees it that late.
SAYING_GATHER_S: Final = 2.0
#: A message of QoS 1 may still be lost, by a broker that forgets at a restart.
SAY_AGAIN_S: Final = 600.0
#: The release under which chunks go that no known manifest lists: bases of differences, encrypted ones.
_PULLED: Final = "pulled"


class Relay:
    """The relay of one site.

    Args:
        device: the relay's own id.
    """

    def __init__(self, device: str, link: MqttLink, cache: Cache, site: Site, topics: Topics) -> None:
        self._device = device
        self._link = link
        self._site = site
        self._topics = topics
        self._origin = Origin(cache)
        #: The source of the relay's own chunks.
        self.chunks = OwnChunks(device, link, cache)
        self._pulls = self.chunks.pulls = Pulls(link, cache, self._give)
        self._devices: frozenset[str] = frozenset()
        self._releases: tuple[AnnouncedRelease, ...] = ()
        self._listed: set[str] = set()
        self._pulled: set[str] = set()
        self._states: dict[tuple[str, str], RelayedMessage] = {}
        self._sayings: dict[tuple[str, str], RelayedMessage] = {}
        self._said = asyncio.Event()
        link.set_handler(self)

    def trust(self, source: TrustSource, judge: Callable[[TrustSource], Trust]) -> Trust:
        """The trust of the relay's own device, which shows the site what it has judged right."""
        loop = asyncio.get_running_loop()

        def show(files: SiteFiles) -> None:
            loop.call_soon_threadsafe(self.show, files)

        remembered = Remembered(source)
        return SiteTrust(judge(remembered), remembered, self._device, show)

    async def run(self) -> None:
        """Relay until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._site.run(self._origin, self))
            tasks.create_task(self._pulls.run())
            tasks.create_task(self._speak())

    def show(self, files: SiteFiles) -> None:
        """Let the site see these files, and serve what they list."""
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
        self._listed = {chunk_id for listed in self._releases for chunk_id in listed.ids}
        self._pulled.clear()
        self._states = {it: said for it, said in self._states.items() if said.device in self._devices}
        self._allow()
        self._link.listen([self._topics.call(device) for device in sorted(self._devices)])
        targets = {self._topics.trust(*name): data for name, data in files.targets.items()}
        self._site.show(targets | self._link.signed())

    def connected(self) -> None:
        """See `TopicHandler.connected`: nobody may have heard what was said last."""
        self._sayings = self._states | self._sayings
        self._said.set()

    def on_message(self, topic: str, payload: bytes) -> None:
        """See `TopicHandler.on_message`: calls from the fleet to the site's devices."""
        self._site.pass_down(topic, payload)

    def hear_site(self, topic: str, payload: bytes) -> None:
        """See `SiteListener.hear_site`."""
        kind, device, *rest = topic.removeprefix(f"{self._topics.root}/").split("/")
        if device not in self._devices or not payload:
            return
        try:
            match [kind, *rest]:
                case ["want"]:
                    self._pulls.want(device, messages.decode(payload, Want).keys)
                case ["device", "state"]:
                    self._say(RelayedMessage(device=device, state=messages.decode(payload, DeviceState)))
                case ["device", "report"]:
                    self._say(RelayedMessage(device=device, report=messages.decode(payload, Report)))
                case ["device", "reply"]:
                    self._link.send(topic, payload)
        except RejectedError as error:
            log.failure("relay drops a message", error, device=device)

    def _give(self, device: str, keys: Sequence[str]) -> None:
        """Let the cache's payloads go to a device: what the origin has answered is listed by it."""
        if device == self._device:
            self.chunks.give(keys)
            return
        ids = {chunk_id for key in keys for chunk_id in wire_keys.ids(key)}
        if not ids <= self._listed | self._pulled:
            self._pulled |= ids - self._listed
            self._allow()
        self._origin.want(device, keys)

    def _allow(self) -> None:
        pulled = AnnouncedRelease(release=_PULLED, ids=frozenset(self._pulled))
        self._origin.demand.allow(releases=[pulled, *self._releases], devices=self._devices)

    def _say(self, saying: RelayedMessage) -> None:
        self._sayings.pop(saying.subject, None)
        self._sayings[saying.subject] = saying
        if saying.state is not None:
            self._states[saying.subject] = saying
        self._said.set()

    async def _speak(self) -> None:
        """Pass up what devices say, the newest of each subject, many in a message; all states now and then."""
        while True:
            try:
                await within(self._said.wait(), SAY_AGAIN_S)
            except TimeoutError:
                self._sayings = self._states | self._sayings
            await asyncio.sleep(SAYING_GATHER_S)
            self._said.clear()
            if not self._link.is_online:
                continue
            sayings, self._sayings = list(self._sayings.values()), {}
            for start in range(0, len(sayings), relay_batch.MESSAGES_MAX):
                payload = relay_batch.pack(sayings[start : start + relay_batch.MESSAGES_MAX])
                self._link.send(self._topics.relay(self._device), payload)


def made(settings: RelaySettings, device: DeviceSettings, link: MqttLink, store: Path) -> Relay:
    """The relay of a device whose agent.toml has the section `[relay]`.

    Raises:
        DeviceError: `store-failed`, when its cache can't be written.
    """
    topics = Topics(device.fleet)
    site = Site(settings.broker, f"edgeml-{device.fleet}-{device.id}-relay", topics)
    return Relay(device.id, link, Cache(store / FOLDER_NAME, settings.max_bytes), site, topics)
