"""The repository as retained messages: publish the files that the broker lacks, and clear those that are superseded.

Another client may overwrite, delete or add files. No device accepts such a file, but it may keep devices from the
signed one. So the announcer publishes its own files again, and clears added ones. To see a change of the repository,
compare both `timestamp.json`: they change last with every change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from edgeml.repository import RepositoryFolder
from edgeml.repository.signed import SignedRepository
from edgeml_core import chunks, trust
from edgeml_core.errors import TransportError
from edgeml_core.messages import Topics
from edgeml_io.packet_limit import PACKET_MAX_BYTES

_AT_LEAST_ONCE: Final = 1
_CLEARED: Final = b""
#: Seconds between two looks at the repository: an operator sees a deployment announced within one.
WATCH_EVERY_S: Final = 1.0
_ROOT_SUFFIX: Final = ".root.json"
#: Topics with foreign content that wait for their repair. Of more, the next connection receives the content again.
FOREIGN_MAX_TOPICS: Final = 4096


class Publisher(Protocol):
    """The connection: see `edgeml_io.mqtt.Connection`."""

    async def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Publish a message; False when the broker doesn't take one of that length."""
        ...


def stamps(repository: RepositoryFolder) -> tuple[bytes, ...]:
    """Return the files that differ after every change."""
    return tuple((signed.folder / trust.TIMESTAMP_FILE).read_bytes() for signed in repository.both)


class Announcer:
    """The files that this connection's broker has from a repository."""

    def __init__(self, connection: Publisher, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics
        #: The file on each topic, by repository.
        self._announced: dict[str, dict[str, str]] = {}
        self._cleared: set[str] = set()
        #: The payloads that the broker should retain, as file and digest.
        self._retained: dict[str, tuple[Path, str]] = {}
        #: Topics on which another payload was received, with whether it was published since this connection began.
        self._foreign: dict[str, bool] = {}

    async def announce(self, signed: SignedRepository) -> list[TransportError]:
        """Publish the files that the broker doesn't have from us yet, the timestamp last, then clear old ones.

        The files of the state before this one stay for the devices that are just reading it. The next call clears them.

        Returns:
            `packet-too-long` for each file that the broker doesn't take. Devices that need none of them go on. Where
            metadata is among them, the timestamp isn't published either, so that devices keep to the state before.
        """
        files, announced = self._files(signed), self._announced.get(signed.name, {})
        refused: list[TransportError] = []
        for topic, file in files.items():
            if announced.get(topic) != file or file == trust.TIMESTAMP_FILE:
                data = self._content(topic, signed.folder / file)
                if not await self._retain(topic, data):
                    self._retained.pop(topic)
                    refused.append(_too_long(signed.name, file, len(data)))
                    if file.startswith(f"{trust.METADATA_DIR}/"):
                        return refused
        old = [self._topics.trust(signed.name, file) for file in signed.superseded()]
        await self._clear([topic for topic in old if topic not in files and topic not in announced])
        self._announced[signed.name] = files
        return refused

    def on_message(self, topic: str, payload: bytes, *, is_retained: bool = False) -> None:
        """Compare a received payload with ours; mostly it is the echo of our own message.

        Args:
            is_retained: whether the broker had it when this connection subscribed.
        """
        _, digest = self._retained.get(topic, (None, chunks.sha256(_CLEARED)))
        if chunks.sha256(payload) == digest:
            self._foreign.pop(topic, None)
        elif topic in self._foreign or len(self._foreign) < FOREIGN_MAX_TOPICS:
            self._foreign[topic] = self._foreign.get(topic, False) or not is_retained

    async def repair(self) -> int:
        """Publish our files again where another payload was received, and return how many others have changed.

        A retained payload on a topic of ours may be the file from before this host was away; then no other has.
        """
        foreign, self._foreign = self._foreign, {}
        for topic in foreign:
            path, _ = self._retained.get(topic, (None, ""))
            await self._retain(topic, _CLEARED if path is None else self._content(topic, path))
        ours = self._retained.keys() | self._cleared
        return sum(is_new or topic not in ours for topic, is_new in foreign.items())

    def _files(self, signed: SignedRepository) -> dict[str, str]:
        """Return the present files by topic; the newest root stands on a second topic, before the timestamp."""
        *files, timestamp = signed.files()
        newest = next(file for file in reversed(files) if file.endswith(_ROOT_SUFFIX))
        by_topic = {self._topics.trust(signed.name, file): file for file in files}
        by_topic[self._topics.trust(signed.name, trust.NEWEST_ROOT_FILE)] = newest
        return by_topic | {self._topics.trust(signed.name, timestamp): timestamp}

    async def _clear(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if topic not in self._cleared:
                self._retained.pop(topic, None)
                await self._retain(topic, _CLEARED)
                self._cleared.add(topic)

    def _content(self, topic: str, path: Path) -> bytes:
        """Read a file, and note that the broker should retain it."""
        data = path.read_bytes()
        self._retained[topic] = path, chunks.sha256(data)
        return data

    async def _retain(self, topic: str, data: bytes) -> bool:
        return await self._connection.publish(topic, data, qos=_AT_LEAST_ONCE, retain=True)


def _too_long(repo: str, file: str, size_bytes: int) -> TransportError:
    message = f"{repo}/{file} has {size_bytes} bytes, more than the broker takes: devices can't read it"
    return TransportError("packet-too-long", message, f"let the broker take {PACKET_MAX_BYTES} bytes: max_packet_size")
