"""`edgeml fleet serve`: announce the repository, answer wants, record states and reports, keep signatures fresh.

The main path is `serve`; after the first connection it reconnects for ever. The decisions are made elsewhere: which
chunk to send in `edgeml_origin`, which file to announce in `announcer`, which state counts in `registry`, which host
leads in `leadership`. Messages of devices that aren't enrolled are ignored.

Of several hosts each answers the wants of its part of the chunks. The leader alone signs, announces and records. Its
session with the broker has a name in the registry: the next leader continues it, and receives all messages that the
last one has not acknowledged. A message is acknowledged when it is recorded.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NoReturn

from edgeml.fleet import announcer, refresh
from edgeml.fleet.announcer import WATCH_EVERY_S, Announcer
from edgeml.fleet.chunk_payloads import ChunkPayloads
from edgeml.fleet.credentials import Credentials
from edgeml.fleet.leadership import Election
from edgeml.fleet.link import Broker, HostSessions, host_backoff, transport_error
from edgeml.fleet.nodes import Nodes
from edgeml.fleet.record_announcer import RecordAnnouncer
from edgeml.fleet.recorder import Events, Recorder
from edgeml.fleet.registry import Registry
from edgeml.fleet.relayed_states import RelayedStates
from edgeml.fleet.rules import service as rule_service
from edgeml.fleet.rules.service import RuleService
from edgeml.fleet.snapshot import Snapshot, read
from edgeml.fleet.webhook import Webhook
from edgeml.repository import RepositoryFolder, opened, renewal
from edgeml.repository.layout import DATABASE_FILE
from edgeml.repository.records import Known
from edgeml_core import messages, relay_batch
from edgeml_core.errors import EdgemlError, RejectedError, TransportError, UsageError
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_io import aio
from edgeml_io.echo_check import EchoCheck
from edgeml_io.mqtt import Connection, Message, MqttError
from edgeml_origin.origin import Origin

_log = logging.getLogger(__name__)

#: Threads for disks and the database. One that hangs holds about ten; Python has five on a machine with one core.
THREADS: Final = 32
#: Retained states requested by exact topics in one message.
STATES_REQUESTED_MAX: Final = 100
#: Seconds between two checks of rights that are missing: the operator may be changing them.
RIGHTS_CHECK_EVERY_S: Final = 30.0
#: Devices that aren't enrolled, as far as this host knows yet, whose messages it holds; and messages of each.
UNKNOWN_DEVICES_MAX: Final = 100
HELD_MESSAGES_MAX: Final = 10
#: Seconds between two events about malformed messages of one device: a hostile one must not fill the log.
DROPPED_EVENT_EVERY_S: Final = 60.0
_CHUNK_QOS: Final = 0
_WANT_QOS: Final = 0
_TRUST_QOS: Final = 0
_DEVICE_QOS: Final = 1


async def serve(
    repo: Path, broker: Broker, events: Events, *, registry: Registry | None = None, max_bytes_per_s: int | None = None
) -> NoReturn:
    """Serve a fleet until cancelled.

    Args:
        repo: the repository's folder.
        broker: where to connect.
        events: receives connections and announcements.
        registry: the fleet's database, closed at the end; by default `fleet.db` in the repository.
        max_bytes_per_s: a limit on all chunks together; None sets none.

    Raises:
        UsageError: `repo-invalid`, also when the fleet key is locked; `usage`, when another host serves the folder, or
            a password or certificate file can't be used.
        TransportError: `broker-unreachable` or `broker-refused`, when the first connection fails.
    """
    repository = opened(repo)
    registry = registry or Registry(repo / DATABASE_FILE)
    with repository.served(is_shared=registry.database.is_shared):
        await serve_opened(repository, broker, events, registry, max_bytes_per_s=max_bytes_per_s)
    raise AssertionError("the tasks never end by themselves")


async def serve_opened(
    repository: RepositoryFolder,
    broker: Broker,
    events: Events,
    registry: Registry,
    *,
    max_bytes_per_s: int | None = None,
    webhook: Webhook | None = None,
) -> NoReturn:
    """Serve a repository that this process has locked by `RepositoryFolder.served`, with notices to a webhook."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    await asyncio.to_thread(renewal.unlock, repository)
    snapshot = await asyncio.to_thread(read, repository)
    election = Election(registry.database)
    await election.turn()
    rules = rule_service.of_host(repository, registry, election, events, broker=broker, webhook=webhook)
    host = Host(repository, registry, election, snapshot, events, rules=rules, max_bytes_per_s=max_bytes_per_s)
    await _run_all(host, broker, registry, events)
    raise AssertionError("the tasks never end by themselves")


async def _run_all(host: Host, broker: Broker, registry: Registry, events: Events) -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(host.election.run())
            tasks.create_task(host.recorder.run())
            tasks.create_task(refresh.run(host.repository, host.election, events))
            tasks.create_task(host.rules.run())
            tasks.create_task(host.stay_connected(broker))
            tasks.create_task(host.credentials.run(broker))
            tasks.create_task(host.nodes.run(broker))
    except BaseExceptionGroup as group:
        aio.raise_first(group)
    finally:
        registry.close()


class _LeaderChangedError(Exception):
    """This host leads from now on, or no more: its session with the broker is another one."""


class Host:
    """The parts of the service, and the steps that connect them."""

    def __init__(
        self,
        repository: RepositoryFolder,
        registry: Registry,
        election: Election,
        snapshot: Snapshot,
        events: Events,
        *,
        rules: RuleService,
        max_bytes_per_s: int | None = None,
    ) -> None:
        self.repository = repository
        self.election = election
        self._events = events
        self._topics = Topics(repository.fleet_name)
        #: Other topics are only written or only read: no echo can check them.
        self._rights = EchoCheck([self._topics.trust("echo", "origin")])
        self._payloads = ChunkPayloads(repository.chunks)
        self._origin = Origin(self._payloads, max_bytes_per_s)
        self.recorder = Recorder(registry, election, events)
        self.credentials = Credentials(repository, events)
        self.nodes = Nodes(repository, election, events)
        self.rules = rules
        self._relayed = RelayedStates()
        #: The newest messages of each device that may be in the next snapshot.
        self._held: dict[str, deque[Message]] = {}
        #: When the last event about a malformed message of each device was.
        self._dropped_s: dict[str, float] = {}
        #: Devices of which the registry has a state.
        self._seen = self.recorder.seen()
        self._use(snapshot)

    async def stay_connected(self, broker: Broker) -> None:
        """Connect and serve, again whenever the connection or the leadership changes; only the first failure raises."""
        connections, waits = 0, host_backoff()
        sessions = HostSessions(broker, self._topics)
        while True:
            is_leader = self.election.is_leader
            if not is_leader:
                self._relayed.clear()
            try:
                async with sessions.present(self.election).connected() as connection:
                    waits.began()
                    connections += 1
                    self._events.event("connected", f"connected to {broker.url}", broker=str(broker.url))
                    self.recorder.await_use()
                    await self._serve_connection(connection, is_leader=is_leader)
            except* _LeaderChangedError:
                waits.reset()
            except* (MqttError, UsageError) as group:
                # Later the operator may be replacing the certificate's files.
                cause = aio.first_error(group)
                if connections == 0 and isinstance(cause, MqttError):
                    raise transport_error(broker.url, cause) from cause
                if connections == 0:
                    raise
                self._events.event("disconnected", f"connection to {broker.url} lost: {cause}", reason=str(cause))
            await waits.wait()

    async def _serve_connection(self, connection: Connection, *, is_leader: bool) -> None:
        async def publish(key: str, payload: bytes) -> None:
            # The host's own network may be slow. The keepalive finds a connection that takes no bytes.
            await connection.publish(self._topics.chunk(key), payload, qos=_CHUNK_QOS, timeout_s=math.inf)

        async def publish_position(release: str, chunk_id: str) -> None:
            await connection.publish(self._topics.wave(release), chunk_id.encode(), qos=_CHUNK_QOS, retain=True)

        announcing = Announcer(connection, self._topics) if is_leader else None
        records = RecordAnnouncer(connection, self._topics, self.repository.records) if is_leader else None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(connection, announcing, records))
            tasks.create_task(self._subscribe(connection, is_leader=is_leader))
            tasks.create_task(self._watch(connection, announcing, announced := asyncio.Event()))
            if records is not None:
                tasks.create_task(self._announce_records(records, announced))
            tasks.create_task(self._origin.run(publish, publish_position))
            tasks.create_task(self._end_with_leadership(is_leader=is_leader))
            if is_leader:
                tasks.create_task(self._request_states(connection, self._snapshot.devices))
                tasks.create_task(self._relayed.publish(connection, self._topics))
                tasks.create_task(self._answer_renewals(connection))
                tasks.create_task(self.rules.publish_notices(connection, self._topics.notice))

    async def _end_with_leadership(self, *, is_leader: bool) -> NoReturn:
        await self.election.until(is_leader=not is_leader)
        self._events.event("leader-changed", "this host leads no more" if is_leader else "this host leads now")
        raise _LeaderChangedError

    async def _subscribe(self, connection: Connection, *, is_leader: bool) -> None:
        """Subscribe while `_receive` acknowledges: amqtt confirms after the retained messages are acknowledged."""
        # With QoS 0 the broker keeps no wants for an absent host: devices have asked again since.
        await connection.subscribe([(self._topics.want("+"), _WANT_QOS)])
        if is_leader:
            for topic in self._device_topics():
                await connection.subscribe([(topic, _DEVICE_QOS)])
            # With QoS 0 signed files never wait behind reports that can't be recorded.
            await connection.subscribe([(self._topics.trust("+", "#"), _TRUST_QOS)])
            await connection.subscribe_to_others([self._topics.record("+"), self._topics.site("+")])

    async def _receive(
        self, connection: Connection, announcing: Announcer | None, records: RecordAnnouncer | None
    ) -> None:
        async for message in connection:
            if self._rights.is_echo(message):
                self._rights.on_echo(message)
            elif message.topic.startswith((self._topics.record(""), self._topics.site(""))):
                # Nothing retained was requested. amqtt sends it, as it sends what other clients subscribe to.
                if records is not None and not message.retain:
                    records.on_message(message.topic, message.payload)
            else:
                self._on_message(message, announcing)
            if message.packet_id is not None:
                self.recorder.after(functools.partial(connection.acknowledge, message))

    def _device_topics(self) -> list[str]:
        topics = self._topics
        return [topics.state("+"), topics.report("+"), topics.relay("+"), topics.renew("+")]

    async def _request_states(self, connection: Connection, devices: Set[str]) -> None:
        """Receive the retained states of devices that the registry lacks; RabbitMQ sends them to no wildcard."""
        topics = [self._topics.state(device) for device in sorted(devices - self._seen)]
        for start in range(0, len(topics), STATES_REQUESTED_MAX):
            requested = topics[start : start + STATES_REQUESTED_MAX]
            await connection.subscribe([(topic, _DEVICE_QOS) for topic in requested])
            await connection.unsubscribe(requested)

    def _on_message(self, message: Message, announcing: Announcer | None) -> None:
        kind, device, *rest = message.topic.removeprefix(f"{self._topics.root}/").split("/")
        if kind == "trust":
            if announcing is not None:
                announcing.on_message(message.topic, message.payload, is_retained=message.retain)
        elif message.payload and device in self._snapshot.devices:
            try:
                self._on_device_message(device, [kind, *rest], message)
            except RejectedError as error:
                self._drop(device, error)
        elif message.payload and kind == "device":
            self._hold(device, message)

    def _hold(self, device: str, message: Message) -> None:
        if device in self._held or len(self._held) < UNKNOWN_DEVICES_MAX:
            self._held.setdefault(device, deque(maxlen=HELD_MESSAGES_MAX)).append(message)

    def _on_device_message(self, device: str, kind: list[str], message: Message) -> None:
        payload, is_acknowledged = message.payload, message.packet_id is not None
        match kind:
            case ["want"]:
                self._origin.want(device, self.election.part.of(messages.decode(payload, Want).keys))
            case ["renew"]:
                self.credentials.put(device, payload)
            case ["relay"]:
                self._on_relay_batch(device, message)
            case ["device", "state"]:
                self._seen.add(device)
                self.recorder.put(device, messages.decode(payload, DeviceState), is_acknowledged=is_acknowledged)
            case _:
                self.recorder.put(device, messages.decode(payload, Report), is_acknowledged=is_acknowledged)

    def _drop(self, device: str, error: RejectedError) -> None:
        """Report a malformed message, for each sender at most once in `DROPPED_EVENT_EVERY_S`."""
        now_s = time.monotonic()
        if now_s - self._dropped_s.get(device, -math.inf) >= DROPPED_EVENT_EVERY_S:
            self._dropped_s[device] = now_s
            text = f"dropped a message on a topic of {device}: {error.message}"
            self._events.event("dropped", text, device=device, code=error.code)

    def _on_relay_batch(self, relay: str, received: Message) -> None:
        """Queue a relay's messages about the devices whose signed labels name its own site; the others are ignored."""
        sites = self._snapshot.sites
        for relayed in relay_batch.unpack(received.payload):
            if not sites[relay] or sites.get(relayed.device) != sites[relay]:
                continue
            try:
                message = relayed.message()
            except RejectedError as error:
                self._drop(relayed.device, error)
                continue
            self.recorder.put(relayed.device, message, is_acknowledged=received.packet_id is not None)
            if isinstance(message, DeviceState):
                self._relayed.put(relayed.device, message)

    async def _answer_renewals(self, connection: Connection) -> None:
        async def publish(device: str, payload: bytes) -> None:
            await connection.publish(self._topics.certificate(device), payload, qos=_DEVICE_QOS)

        await self.credentials.answer(publish)

    async def _await_rights(self, connection: Connection) -> None:
        """Return when this host may write signed files and read them; until then report that it may not."""
        while missing := await self._rights.run(connection):
            message = f"the broker doesn't deliver this host's messages on {', '.join(missing)}: nothing is announced"
            hint = (
                f"let the host's user read and write {self._topics.root}/#, as `edgeml fleet broker-config` writes it"
            )
            error = TransportError("topic-forbidden", message, hint)
            self._events.event("rights-missing", f"error[{error.code}]: {message}\nhint: {hint}", **error.to_dict())
            await asyncio.sleep(RIGHTS_CHECK_EVERY_S)

    async def _watch(self, connection: Connection, announcing: Announcer | None, announced: asyncio.Event) -> None:
        """Follow the repository, and announce it where this host leads."""
        if announcing is not None:
            await self._await_rights(connection)
        seen: tuple[object, ...] = ()
        while True:
            try:
                stamps = (*announcer.stamps(self.repository), self.repository.records.stamp())
                if stamps != seen:
                    before = self._snapshot.devices
                    self._use(await asyncio.to_thread(read, self.repository))
                    if announcing is not None:
                        await self._request_states(connection, self._snapshot.devices - before)
                        await self._announce(announcing)
                    seen = stamps
                    announced.set()
                elif announcing is not None:
                    self._held.clear()  # their senders aren't enrolled
                    if repaired := await announcing.repair():
                        self._report_repaired(repaired)
            except (EdgemlError, OSError) as error:
                # The operator may be restoring it. The announced files stay until it is whole again.
                _log.warning("the repository can't be read, trying again: %s", error)
            await asyncio.sleep(WATCH_EVERY_S)

    async def _announce(self, announcing: Announcer) -> None:
        for signed in self.repository.both:
            for refused in await announcing.announce(signed):
                self._events.event("file-refused", refused.message, **refused.to_dict())
        self.nodes.follow_files()
        releases, devices = len(self._snapshot.releases), len(self._snapshot.devices)
        text = f"announced {releases} release(s) to {devices} device(s)"
        self._events.event("announced", text, releases=releases, devices=devices)

    async def _announce_records(self, devices: RecordAnnouncer, announced: asyncio.Event) -> None:
        """Announce the devices' records after the signed files, and beside later ones: a first time takes long."""
        await announced.wait()
        before: Mapping[str, Known] | None = None
        while True:
            known = self._snapshot.records
            try:
                if known is not before:
                    for refused in await devices.announce(known):
                        self._events.event("file-refused", refused.message, **refused.to_dict())
                    self.nodes.follow_records(before := known)
                elif repaired := await devices.repair():
                    self._report_repaired(repaired)
            except EdgemlError as error:
                _log.warning("the devices' records can't be read, trying again: %s", error)
            await asyncio.sleep(WATCH_EVERY_S)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.recorder.use(deployments=snapshot.deployments, devices=snapshot.devices)
        self._payloads.use(snapshot.sealed, snapshot.locations)
        self._origin.scheduler.allow(releases=snapshot.releases, devices=snapshot.devices)
        for device in snapshot.devices & self._held.keys():
            for message in self._held.pop(device):
                self._on_message(message, None)

    def _report_repaired(self, files: int) -> None:
        if not self.nodes.are_quiet:
            return
        text = f"repaired {files} signed file(s) that others had changed on the broker: check the rights to write there"
        self._events.event("repaired", text, files=files)
