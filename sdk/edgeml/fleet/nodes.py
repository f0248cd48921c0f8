"""The nodes of a broker's cluster: the leader retains the signed files and records at each of them, too.

A cluster may keep a retained message on the node that received it, as RabbitMQ's does. A device then finds what its own
node has. The host's own connection announces first: else it would take a copy for another client's file.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from typing import Final, NoReturn

from edgeml.fleet.announcer import WATCH_EVERY_S, Announcer
from edgeml.fleet.leadership import Leadership
from edgeml.fleet.link import Broker, client_id, host_backoff, session
from edgeml.fleet.record_announcer import RecordAnnouncer
from edgeml.fleet.recorder import Events
from edgeml.repository import RepositoryFolder
from edgeml.repository.records import Known
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.messages import Topics
from edgeml_io import aio
from edgeml_io.mqtt import Connection, MqttError

_log = logging.getLogger(__name__)

#: Seconds in which the host's own connection may receive what was announced at a node, behind newer files.
COPIES_LATE_S: Final = 60.0


class Nodes:
    """A connection to each node, and what is announced there."""

    def __init__(self, repository: RepositoryFolder, election: Leadership, events: Events) -> None:
        self._repository = repository
        self._election = election
        self._events = events
        self._topics = Topics(repository.fleet_name)
        #: How often the host's own connection has announced the signed files, and the records that it announced last.
        self._files = 0
        self._records: Mapping[str, Known] | None = None
        #: When a node last got something.
        self._announced_s = -math.inf

    @property
    def are_quiet(self) -> bool:
        """Whether a file that differs from the host's own can't be a late copy of one."""
        return time.monotonic() - self._announced_s > COPIES_LATE_S

    def follow_files(self) -> None:
        """Announce the repository's present files, which the host's own connection has announced."""
        self._files += 1

    def follow_records(self, known: Mapping[str, Known]) -> None:
        """Announce these records, which the host's own connection has announced."""
        self._records = known

    async def run(self, broker: Broker) -> None:
        """Stay connected to each node of a broker while this host leads; a node that is away holds up no other."""
        async with asyncio.TaskGroup() as tasks:
            for url in broker.nodes:
                tasks.create_task(self._stay_at(dataclasses.replace(broker, url=url)))

    async def _stay_at(self, node: Broker) -> NoReturn:
        waits, is_lost = host_backoff(), False
        while True:
            await self._election.until(is_leader=True)
            try:
                async with session(node, client_id(self._topics), is_lasting=False).connected() as connection:
                    waits.began()
                    self._events.event("connected", f"connected to {node.url}", broker=str(node.url))
                    is_lost = False
                    await self._announce(connection)
            except* (MqttError, UsageError) as group:
                cause = aio.first_error(group)
                if not is_lost:
                    self._events.event("disconnected", f"connection to {node.url} lost: {cause}", reason=str(cause))
                is_lost = True
            await waits.wait()

    async def _announce(self, connection: Connection) -> None:
        """Announce all, and then what changes, while this host leads.

        Its own connection reports a file that the cluster doesn't take.
        """
        announcer = Announcer(connection, self._topics)
        records = RecordAnnouncer(connection, self._topics, self._repository.records)
        files, known = 0, None
        async with asyncio.TaskGroup() as tasks:
            receiving = tasks.create_task(_until_lost(connection))
            while self._election.is_leader:
                try:
                    if files != (newest := self._files):
                        for signed in self._repository.both:
                            self._announced_s = time.monotonic()
                            await announcer.announce(signed)
                        files = newest
                    if known is not (followed := self._records) and followed is not None:
                        await records.announce(followed)
                        known = followed
                        self._announced_s = time.monotonic()
                except (EdgemlError, OSError) as error:
                    _log.warning("the repository can't be read, trying again: %s", error)
                await asyncio.sleep(WATCH_EVERY_S)
            receiving.cancel()


async def _until_lost(connection: Connection) -> NoReturn:
    """Raise `MqttError` when the connection is lost; nothing is subscribed to."""
    async for _ in connection:
        pass
    raise AssertionError("messages never end by themselves")
