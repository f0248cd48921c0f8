"""`edgeml fleet serve`: the repository announced, wants answered, states and reports recorded, signatures kept fresh.

The main path is `serve`; after the first connection it reconnects for ever. Deciding is done elsewhere: what to send
in `edgeml_origin`, what to announce in `announcer`, what counts in `registry`. Only enrolled devices are listened to.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from pathlib import Path
from typing import Final, NoReturn, Protocol

from aiomqtt import Client, Message, MqttError

from edgeml.fleet import announcer, link
from edgeml.fleet.announcer import Announcer
from edgeml.fleet.chunk_payloads import Answers
from edgeml.fleet.link import Broker
from edgeml.fleet.registry import DATABASE_FILE, DeviceMessage, Registry
from edgeml.fleet.snapshot import View, look
from edgeml.repository import RepositoryFolder, layout, opened, renewal
from edgeml_core import messages, relay_batch
from edgeml_core.errors import EdgemlError, RejectedError, TransportError
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_origin.origin import Origin

_log = logging.getLogger(__name__)

WATCH_EVERY_S: Final = 1.0
REFRESH_CHECK_EVERY_S: Final = 3600.0
#: A connection that lasted this long was good: the next failure waits the shortest time again.
STABLE_AFTER_S: Final = 60.0
#: Messages of devices not recorded yet, and how many go into one transaction.
RECORD_QUEUE_MAX: Final = 10_000
RECORD_BATCH_MAX: Final = 256
#: How often messages that can't be read are told of, for each device.
TELL_DROPPED_EVERY_S: Final = 60.0
_CHUNK_QOS: Final = 0
_WANT_QOS: Final = 0
_DEVICE_QOS: Final = 1


class Events(Protocol):
    """Who is told how the service goes."""

    def event(self, name: str, text: str, **fields: object) -> None:
        """Something an operator wants to know."""


async def serve(
    repo: Path, broker: Broker, events: Events, *, database: Path | None = None, max_bytes_per_s: int | None = None
) -> NoReturn:
    """Serve a fleet until cancelled.

    Args:
        repo: the repository's folder.
        broker: where to connect.
        events: is told of connections and announcements.
        database: the registry's file; by default `fleet.db` in the repository.
        max_bytes_per_s: what all chunks together may take; by default as much as goes.

    Raises:
        UsageError: `repo-invalid`, also when the fleet key is locked; or a certificate can't be used.
        DeviceError: the database fails.
        TransportError: `broker-unreachable`, when the first connection fails.
    """
    repository = opened(repo)
    await asyncio.to_thread(renewal.unlock, repository)
    view = await asyncio.to_thread(look, repository)
    registry = Registry(database or repo / DATABASE_FILE)
    host = Host(repository, registry, view, events, max_bytes_per_s=max_bytes_per_s)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(host.record())
            tasks.create_task(host.keep_fresh())
            tasks.create_task(host.stay_connected(broker))
    except BaseExceptionGroup as group:
        error = _first(group)
        raise error from error.__cause__
    finally:
        registry.close()
    raise AssertionError("the tasks never end by themselves")


def run(
    repo: Path, broker: Broker, events: Events, *, database: Path | None = None, max_bytes_per_s: int | None = None
) -> None:
    """`serve` as a program: SIGTERM ends it in order."""

    async def until_terminated() -> None:
        service = asyncio.ensure_future(serve(repo, broker, events, database=database, max_bytes_per_s=max_bytes_per_s))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.cancel)
        await asyncio.wait({service})
        if not service.cancelled():
            service.result()

    asyncio.run(until_terminated())


class Host:
    """The parts of the service, and the steps that connect them."""

    def __init__(
        self,
        repository: RepositoryFolder,
        registry: Registry,
        view: View,
        events: Events,
        *,
        max_bytes_per_s: int | None = None,
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._events = events
        self._topics = Topics(repository.fleet_name)
        self._answers = Answers(repository.chunks)
        self._origin = Origin(self._answers, max_bytes_per_s)
        self._said: asyncio.Queue[DeviceMessage] = asyncio.Queue(RECORD_QUEUE_MAX)
        self._relayed: asyncio.Queue[tuple[str, DeviceState]] = asyncio.Queue(RECORD_QUEUE_MAX)
        self._dropped_s: dict[str, float] = {}
        self._use(view)

    async def stay_connected(self, broker: Broker) -> None:
        """Connect, serve, and again when the connection is lost; only the first failure is an error."""
        attempt, connections = 0, 0
        session = f"edgeml-host-{self._repository.fleet_name}-{self._registry.session()}"
        while True:
            began_s = time.monotonic()
            try:
                async with link.connected(broker, session) as client:
                    connections += 1
                    self._events.event("connected", f"connected to {broker.url}", broker=str(broker.url))
                    await self._serve_connection(client)
            except* MqttError as group:
                cause = _first(group)
                if connections == 0:
                    hint = "start the broker, and check --broker, its user and its certificates"
                    raise TransportError("broker-unreachable", f"{broker.url}: {cause}", hint) from cause
                self._events.event("disconnected", f"connection to {broker.url} lost: {cause}", reason=str(cause))
            attempt = 0 if time.monotonic() - began_s > STABLE_AFTER_S else attempt + 1
            await asyncio.sleep(link.backoff_s(attempt))

    async def record(self) -> None:
        """Write what devices said to the registry, as it comes."""
        while True:
            said = [await self._said.get()]
            while len(said) < RECORD_BATCH_MAX and not self._said.empty():
                said.append(self._said.get_nowait())
            await asyncio.to_thread(self._registry.record, said)

    async def keep_fresh(self) -> None:
        """Sign anew before devices would find the metadata expired."""
        while True:
            try:
                if await asyncio.to_thread(renewal.is_due, self._repository, layout.utc_now()):
                    await asyncio.to_thread(renewal.renew, self._repository, layout.utc_now())
                    self._events.event("refreshed", "signed freshness anew")
            except EdgemlError as error:
                self._events.event("refresh-failed", f"freshness can't be signed: {error.message}", **error.to_dict())
            await asyncio.sleep(REFRESH_CHECK_EVERY_S)

    async def _serve_connection(self, client: Client) -> None:
        async def publish(key: str, payload: bytes) -> None:
            # Our own line may be slow: that it still takes bytes is the keepalive's to watch.
            await client.publish(self._topics.chunk(key), payload, qos=_CHUNK_QOS, timeout=math.inf)

        async def point(release: str, front: str) -> None:
            await client.publish(self._topics.wave(release), front.encode(), qos=_CHUNK_QOS, retain=True)

        announced = Announcer(client, self._topics)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(client, announced))
            tasks.create_task(self._announce(announced))
            tasks.create_task(self._origin.run(publish, point))
            tasks.create_task(self._show_relayed(client))

    async def _listen(self, client: Client, announced: Announcer) -> None:
        # What a device wanted while nobody was there, it has long asked for again: only QoS 1 is kept.
        await client.subscribe(self._topics.want("+"), qos=_WANT_QOS)
        heard = (
            self._topics.state("+"),
            self._topics.report("+"),
            self._topics.relay("+"),
            self._topics.trust("+", "#"),
        )
        for topic in heard:
            await client.subscribe(topic, qos=_DEVICE_QOS)
        async for message in client.messages:
            self._receive(message, announced)

    def _receive(self, message: Message, announced: Announcer) -> None:
        payload, topic = message.payload, str(message.topic)
        kind, device, *rest = topic.removeprefix(f"{self._topics.root}/").split("/")
        if kind == "trust" and isinstance(payload, bytes):
            announced.on_message(topic, payload)
            return
        if device not in self._view.devices or not isinstance(payload, bytes) or not payload:
            return
        try:
            if kind == "want":
                self._origin.want(device, messages.decode(payload, Want).keys)
            elif kind == "relay":
                self._hear_relay(device, payload)
            else:
                is_state = rest == ["state"]
                self._note(
                    device, messages.decode(payload, DeviceState) if is_state else messages.decode(payload, Report)
                )
        except RejectedError as error:
            self._drop(device, error)

    def _drop(self, device: str, error: RejectedError) -> None:
        """Tell of a message that can't be read; of one sender's now and then, however many there are."""
        now_s = time.monotonic()
        if now_s - self._dropped_s.get(device, -math.inf) >= TELL_DROPPED_EVERY_S:
            self._dropped_s[device] = now_s
            text = f"dropped a message on a topic of {device}: {error.message}"
            self._events.event("dropped", text, device=device, code=error.code)

    def _hear_relay(self, relay: str, payload: bytes) -> None:
        """Take in what a relay says of devices; it counts for those that stand, by their signed labels, at its site."""
        sites = self._view.sites
        for saying in relay_batch.unpack(payload):
            message = saying.state or saying.report
            if message is not None and sites[relay] and sites.get(saying.device) == sites[relay]:
                self._note(saying.device, message)
                if isinstance(message, DeviceState) and not self._relayed.full():
                    self._relayed.put_nowait((saying.device, message))

    async def _show_relayed(self, client: Client) -> None:
        """Retain the states of devices behind relays, as others say theirs: for callers, and whoever else looks."""
        while True:
            device, state = await self._relayed.get()
            await client.publish(self._topics.state(device), messages.encode(state), qos=_DEVICE_QOS, retain=True)

    def _note(self, device: str, message: DeviceState | Report) -> None:
        try:
            self._said.put_nowait(DeviceMessage(device=device, message=message, seen_s=time.time()))
        except asyncio.QueueFull:
            _log.warning("devices say more than can be recorded; a message of %s is lost", device)

    async def _announce(self, announced: Announcer) -> None:
        seen: tuple[bytes, ...] = ()
        while True:
            try:
                stamps = announcer.stamps(self._repository)
                if stamps != seen:
                    self._use(await asyncio.to_thread(look, self._repository))
                    for signed in self._repository.both:
                        await announced.announce(signed)
                    seen = stamps
                    self._tell_announced()
                elif repaired := await announced.repair():
                    self._notify_repaired(repaired)
            except (EdgemlError, OSError) as error:
                # The operator may be restoring it: what is announced stays until it is whole again.
                _log.warning("the repository can't be read, trying again: %s", error)
            await asyncio.sleep(WATCH_EVERY_S)

    def _use(self, view: View) -> None:
        self._view = view
        self._answers.use(view.sealed)
        self._origin.demand.allow(releases=view.releases, devices=view.devices)

    def _tell_announced(self) -> None:
        releases, devices = len(self._view.releases), len(self._view.devices)
        text = f"announced {releases} release(s) to {devices} device(s)"
        self._events.event("announced", text, releases=releases, devices=devices)

    def _notify_repaired(self, files: int) -> None:
        text = f"repaired {files} signed file(s) that others had changed on the broker: check who may write there"
        self._events.event("repaired", text, files=files)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
