"""The repository as retained messages: what the broker lacks is published, what nothing names any more is cleared.

The watch is a look at both `timestamp.json` every second: they are what changes last with every change.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiomqtt import Client

from edgeml.repository import Repository, releases
from edgeml.repository.signed import TIMESTAMP_FILE, SignedRepository
from edgeml_core import wirekeys
from edgeml_core.messages import Topics

_AT_LEAST_ONCE = 1


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the signed repository says now: ids of all chunks, which devices are enrolled, how many releases."""

    ids: frozenset[str]
    devices: frozenset[str]
    releases: int


def look(repository: Repository) -> View:
    """Read and verify the repository.

    Raises:
        UsageError: `repo-invalid`.
    """
    published = releases(repository)
    ids = {wirekeys.chunk_id(digest) for it in published for entry in it.manifest.files for digest in entry.chunks}
    devices = frozenset(repository.document().devices)
    return View(ids=frozenset(ids), devices=devices, releases=len(published))


def stamps(repository: Repository) -> tuple[bytes, ...]:
    """What differs after every change."""
    return tuple((signed.folder / TIMESTAMP_FILE).read_bytes() for signed in repository.both)


class Announcer:
    """What one connection's broker has been told of a repository."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._topics = topics
        self._told: dict[str, frozenset[str]] = {}
        self._cleared: set[str] = set()

    async def announce(self, signed: SignedRepository) -> None:
        """Publish the files that the broker doesn't have from us yet, the timestamp last, then clear old ones.

        Files of the state before this one are left for the devices that are just reading it, and cleared the next time.
        """
        files, told = signed.files(), self._told.get(signed.name, frozenset())
        for file in files:
            if file not in told or file == TIMESTAMP_FILE:
                await self._retain(signed, file, (signed.folder / file).read_bytes())
        await self._clear(signed, [file for file in signed.superseded() if file not in told])
        self._told[signed.name] = frozenset(files)

    async def _clear(self, signed: SignedRepository, files: Sequence[str]) -> None:
        for file in files:
            topic = self._topics.trust(signed.name, file)
            if topic not in self._cleared:
                await self._retain(signed, file, b"")
                self._cleared.add(topic)

    async def _retain(self, signed: SignedRepository, file: str, data: bytes) -> None:
        topic = self._topics.trust(signed.name, file)
        await self._client.publish(topic, data, qos=_AT_LEAST_ONCE, retain=True)
