"""Devices' records as retained messages: one for each device, and those of a site together for its relay.

After a connection all are published, since the broker may have forgotten them; then those that change. Another client
may overwrite one: the device refuses it, and the announcer publishes its own again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from edgeml.fleet.announcer import FOREIGN_MAX_TOPICS, Publisher
from edgeml.repository.records import Known, Records, digest
from edgeml_core import records
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io.packet_limit import PACKET_MAX_BYTES

#: Messages without an acknowledgement: Mosquitto takes 20 at a time.
IN_FLIGHT_MAX: Final = 16
#: Devices whose records are read together.
_READ_TOGETHER: Final = 4096
_AT_LEAST_ONCE: Final = 1
_CLEARED: Final = b""


class RecordAnnouncer:
    """The records that this connection's broker has from a repository."""

    def __init__(self, connection: Publisher, topics: Topics, kept: Records) -> None:
        self._connection = connection
        self._topics = topics
        self._kept = kept
        #: The records that were announced last.
        self._known: Mapping[str, Known] = {}
        #: The devices of each site among them.
        self._members: defaultdict[str, set[str]] = defaultdict(set)
        #: The digest of the payload that each topic has from us.
        self._retained: dict[str, str] = {}
        #: Topics on which another payload was received.
        self._foreign: set[str] = set()
        self._large: set[str] = set()
        self._refused: list[TransportError] = []

    def on_message(self, topic: str, payload: bytes) -> None:
        """Note a payload that another client has published on a topic of ours."""
        if digest(payload) != self._retained.get(topic, digest(_CLEARED)) and len(self._foreign) < FOREIGN_MAX_TOPICS:
            self._foreign.add(topic)

    async def repair(self) -> int:
        """Publish our payloads again where others have published theirs, and return their number."""
        foreign, self._foreign = self._foreign, set()
        if foreign:
            await self._announce_devices(it for it in self._known if self._topics.record(it) in foreign)
            await self._announce_sites(it for it in self._members if self._topics.site(it) in foreign)
            await self._retain(dict.fromkeys(foreign - self._retained.keys(), _CLEARED))
        return len(foreign)

    async def announce(self, known: Mapping[str, Known]) -> list[TransportError]:
        """Publish the records that have changed since the last call, then the messages of their sites.

        Args:
            known: all records, by device.

        Returns:
            `packet-too-long` for each message that the broker doesn't take, and for each site that has too many devices
            for one message; no relay can serve it.
        """
        self._refused, before = [], self._known
        gone = before.keys() - known.keys()
        # A record of a file that wasn't read again is the same object.
        changed = [it for it, new in known.items() if (old := before.get(it)) is not new and old != new]
        sites = {it.site for it in (*map(before.get, changed), *map(before.get, gone), *map(known.get, changed)) if it}
        for device in (*changed, *gone):
            if device in before:
                self._members[before[device].site].discard(device)
            if device in known:
                self._members[known[device].site].add(device)
        await self._announce_devices(changed)
        await self._retain({self._topics.record(device): _CLEARED for device in gone})
        await self._announce_sites(sites)
        self._known = known
        return self._refused

    async def _announce_devices(self, devices: Iterable[str]) -> None:
        ordered = sorted(devices, key=records.file_of)
        for start in range(0, len(ordered), _READ_TOGETHER):
            lines = await asyncio.to_thread(self._kept.encoded, ordered[start : start + _READ_TOGETHER])
            await self._retain({self._topics.record(device): line for device, line in lines.items()})

    async def _announce_sites(self, sites: Iterable[str]) -> None:
        """Publish the records of each site that may have a relay together; of others nothing is retained."""
        waiting = [site for site in sites if site]
        while waiting:
            chosen: dict[str, list[str]] = {}
            while waiting and sum(map(len, chosen.values())) < _READ_TOGETHER:
                site = waiting.pop()
                chosen[site] = sorted(self._members[site]) if self._may_have_relay(site) else []
            lines = await asyncio.to_thread(self._kept.encoded, [it for found in chosen.values() for it in found])
            messages = {
                self._topics.site(site): records.pack_site(lines[it] for it in found if it in lines) if found else b""
                for site, found in chosen.items()
            }
            await self._retain({topic: data for topic, data in messages.items() if data or topic in self._retained})

    def _may_have_relay(self, site: str) -> bool:
        count = len(self._members[site])
        if count > records.SITE_DEVICES_MAX and site not in self._large:
            self._refused.append(_too_many(site, count))
        (self._large.add if count > records.SITE_DEVICES_MAX else self._large.discard)(site)
        return 1 < count <= records.SITE_DEVICES_MAX

    async def _retain(self, payloads: Mapping[str, bytes]) -> None:
        """Publish the payloads, some at a time: each acknowledgement makes room for the next message."""
        waiting = iter(payloads.items())

        async def publish_all() -> None:
            for topic, data in waiting:
                await self._publish(topic, data)

        await asyncio.gather(*(publish_all() for _ in range(IN_FLIGHT_MAX)))

    async def _publish(self, topic: str, data: bytes) -> None:
        if not await self._connection.publish(topic, data, qos=_AT_LEAST_ONCE, retain=True):
            self._refused.append(_too_long(topic, len(data)))
        if data:
            self._retained[topic] = digest(data)
        else:
            self._retained.pop(topic, None)


def _too_long(topic: str, size_bytes: int) -> TransportError:
    message = f"the message on {topic} has {size_bytes} bytes, more than the broker takes"
    return TransportError("packet-too-long", message, f"let the broker take {PACKET_MAX_BYTES} bytes: max_packet_size")


def _too_many(site: str, devices: int) -> TransportError:
    message = f"site {site} has {devices} devices, limit {records.SITE_DEVICES_MAX} for one relay: none can serve it"
    return TransportError("packet-too-long", message, "give the devices behind one relay a site of their own")
