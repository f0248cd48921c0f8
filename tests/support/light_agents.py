"""Many devices in one process: the agent's real link, fetch and files, without models. And what goes over their broker.

Each device takes one release, as its manifest lists it, into a folder of its own; trust is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_agent.fetch.chunk_requests import ChunkRequests
from edgeml_agent.fetch.window import Fetch, Progress
from edgeml_agent.link.chunk_feed import ChunkFeed
from edgeml_agent.link.link import MqttLink
from edgeml_agent.ports import Arrival
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_agent.store.releases import DeltaBases, PartialRelease, Release, Releases
from edgeml_core import broker as broker_urls
from edgeml_core import manifest as manifests
from edgeml_core import wire_keys
from edgeml_core.messages import Topics
from support import paho_clients
from support.delivery_site import FLEET
from support.programs import Program, host_command
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until

MODEL = "tiny"


class LightAgent:
    """One device, in `folder`.

    Args:
        chunk_s: how long it takes over each chunk, where it is a slow one.
    """

    def __init__(self, folder: Path, name: str, url: str, *, chunk_s: float = 0.0) -> None:
        settings = BrokerSettings(url=broker_urls.parse(url), ca=None, cert=None, key=None)
        sessions = itertools.count(1)
        self.name = name
        self.link = MqttLink(settings, DeviceSettings(id=name, fleet=FLEET, labels={}), lambda: next(sessions))
        self._releases = Releases(folder / name, 1 << 40)
        self._chunk_s = chunk_s

    async def fetch(self, release: Release) -> Progress:
        """Fetch a release and verify it."""
        partial = await asyncio.to_thread(self._releases.begin, release, [])
        missing = await asyncio.to_thread(partial.missing)
        source = Slow(self.link.chunks, self._chunk_s) if self._chunk_s else self.link.chunks
        requests = ChunkRequests(DeltaBases(release.manifest))
        progress = await Fetch(partial, source, missing=missing, requests=requests, on_progress=lambda _: None).run()
        await asyncio.to_thread(_finish, self._releases, partial)
        return progress


class Slow:
    """A link of a device that takes its time over each chunk."""

    def __init__(self, chunks: ChunkFeed, chunk_s: float) -> None:
        self._chunks = chunks
        self._chunk_s = chunk_s
        self.follow, self.want, self.drop = chunks.follow, chunks.want, chunks.drop

    @property
    def position(self) -> str:
        """See `ChunkSource.position`."""
        return self._chunks.position

    async def receive(self, timeout_s: float) -> Arrival | None:
        """See `ChunkSource.receive`."""
        await asyncio.sleep(self._chunk_s)
        return await self._chunks.receive(timeout_s)


class Publications:
    """A client that counts what is published for chunks."""

    def __init__(self, port: int) -> None:
        self.counts: Counter[str] = Counter()
        self.payload_bytes = 0
        self._root = Topics(FLEET).chunk("")
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        subscribed: list[object] = []
        self._client.on_subscribe = lambda *_: subscribed.append(True)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(f"{self._root}#")
        until(lambda: subscribed, "the subscription")

    def close(self) -> None:
        """Leave."""
        paho_clients.leave(self._client)

    def per_chunk(self, release: Release) -> float:
        """How often each chunk of a release was published on the average."""
        ids = {wire_keys.chunk_id(digest) for entry in release.manifest.files for digest in entry.chunks}
        return sum(self.counts[chunk_id] for chunk_id in ids) / len(ids)

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self.counts[message.topic.removeprefix(self._root)] += 1
        self.payload_bytes += len(message.payload)


def published(repo: Path, devices: Sequence[str], *, weights_bytes: int) -> Release:
    """A repository, made unless it is there, with one release of incompressible weights, deployed to devices."""
    if not repo.exists():
        repository.init(repo, fleet=FLEET)
    for device in devices:
        repository.enroll(repo, device, labels={}, broker_url=None, out_dir=repo.parent / "enrolled" / device)
    bundle = repo.parent / f"{MODEL}.edgeml"
    manifest = tiny_onnx_bundle(bundle, name=MODEL, weights_bytes=weights_bytes)
    (added,) = repository.publish(repo, [bundle])
    deploy(repo, MODEL, selector="")
    return Release(digest=added.manifest_sha256, manifest_bytes=manifests.encode(manifest), manifest=manifest)


@contextmanager
def host(repo: Path, url: str) -> Iterator[Program]:
    """`edgeml fleet serve` as a process, announced."""
    log = repo.parent / "host.log"
    program = Program(log, *host_command(repo, url))
    try:
        until(lambda: "announced" in log.read_text(), "the announcement")
        yield program
    finally:
        program.kill()


@contextlib.asynccontextmanager
async def connected(agents: Sequence[LightAgent]) -> AsyncIterator[None]:
    """The agents' links, up."""
    running = [asyncio.create_task(agent.link.run()) for agent in agents]
    try:
        await asyncio.gather(*(asyncio.wait_for(agent.link.announced(), TIMEOUT_S) for agent in agents))
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def fetch_all(agents: Sequence[LightAgent], release: Release, *, apart_s: float = 0.0) -> list[float]:
    """Let all fetch a release, one starting `apart_s` after the other; how long each took, in seconds."""

    async def one(number: int, agent: LightAgent) -> float:
        await asyncio.sleep(number * apart_s)
        begun_s = time.perf_counter()
        await agent.fetch(release)
        return time.perf_counter() - begun_s

    return await asyncio.gather(*(one(number, agent) for number, agent in enumerate(agents)))


def _finish(releases: Releases, partial: PartialRelease) -> None:
    partial.verify()
    releases.finish(partial)
