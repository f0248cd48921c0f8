"""The repository as retained messages: what the broker lacks is published, what nothing names any more is cleared.

What others write over or delete there is published again, what they add is cleared: no device believes it, but it would
keep devices from what they may believe. The watch is a look at both `timestamp.json` every second: they are what
changes last with every change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiomqtt import Client

from edgeml.repository import RepositoryFolder
from edgeml.repository.signed import TIMESTAMP_FILE, SignedRepository
from edgeml_core import chunks
from edgeml_core.messages import Topics

_AT_LEAST_ONCE: Final = 1
_CLEARED: Final = b""
#: Topics with foreign content that are remembered until they are repaired; of more, a later look hears again.
FOREIGN_MAX_TOPICS: Final = 4096


def stamps(repository: RepositoryFolder) -> tuple[bytes, ...]:
    """What differs after every change."""
    return tuple((signed.folder / TIMESTAMP_FILE).read_bytes() for signed in repository.both)


class Announcer:
    """What one connection's broker has been told of a repository."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._topics = topics
        self._told: dict[str, frozenset[str]] = {}
        self._cleared: set[str] = set()
        #: What the broker should retain, as file and digest, and where something else was heard.
        self._retained: dict[str, tuple[Path, str]] = {}
        self._foreign: set[str] = set()

    async def announce(self, signed: SignedRepository) -> None:
        """Publish the files that the broker doesn't have from us yet, the timestamp last, then clear old ones.

        Files of the state before this one are left for the devices that are just reading it, and cleared the next time.
        """
        files, told = signed.files(), self._told.get(signed.name, frozenset())
        for file in files:
            if file not in told or file == TIMESTAMP_FILE:
                topic = self._topics.trust(signed.name, file)
                await self._retain(topic, self._content(topic, signed.folder / file))
        await self._clear(signed, [file for file in signed.superseded() if file not in told])
        self._told[signed.name] = frozenset(files)

    def on_message(self, topic: str, payload: bytes) -> None:
        """Note what someone published on a topic of ours; mostly it is the echo of our own words."""
        _, digest = self._retained.get(topic, (None, chunks.sha256(_CLEARED)))
        if chunks.sha256(payload) == digest:
            self._foreign.discard(topic)
        elif len(self._foreign) < FOREIGN_MAX_TOPICS:
            self._foreign.add(topic)

    async def repair(self) -> int:
        """Put right what others have changed; on how many topics."""
        foreign, self._foreign = self._foreign, set()
        for topic in foreign:
            path, _ = self._retained.get(topic, (None, ""))
            await self._retain(topic, _CLEARED if path is None else self._content(topic, path))
        return len(foreign)

    async def _clear(self, signed: SignedRepository, files: Sequence[str]) -> None:
        for file in files:
            topic = self._topics.trust(signed.name, file)
            if topic not in self._cleared:
                self._retained.pop(topic, None)
                await self._retain(topic, _CLEARED)
                self._cleared.add(topic)

    def _content(self, topic: str, path: Path) -> bytes:
        """A file's content, which from now on is what the broker should retain."""
        data = path.read_bytes()
        self._retained[topic] = path, chunks.sha256(data)
        return data

    async def _retain(self, topic: str, data: bytes) -> None:
        await self._client.publish(topic, data, qos=_AT_LEAST_ONCE, retain=True)
