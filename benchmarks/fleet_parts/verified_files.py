"""Signed files as one device has received them, verified by the agent's own trust once in each process.

Each device receives every file over its own connection. Equal files of several devices are verified once: python-tuf
takes 20 ms a device, and thousands share the cores here. Records differ, so each device verifies its own. The
simulation follows no new root.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from tuf.api.metadata import Metadata, Root

from edgeml_agent.link.signed_files import SignedFiles
from edgeml_agent.settings import DeviceSettings
from edgeml_agent.trust.trust import HeldFiles, Trust
from edgeml_core import chunks, desired, records, trust
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import TransportError
from edgeml_core.records import DeviceRecord


class Files(msgspec.Struct, frozen=True):
    """Received files by repository and name, and the digest of the fleet document among them."""

    content: dict[tuple[str, str], bytes]
    document: str


class _Version(msgspec.Struct):
    version: int


class _Target(msgspec.Struct):
    hashes: dict[str, str]


class _Signed(msgspec.Struct):
    meta: dict[str, _Version] = {}
    targets: dict[str, _Target] = {}


class _Metadata(msgspec.Struct):
    signed: _Signed


async def receive(signed: SignedFiles) -> Files:
    """Receive what the newest timestamps name, over a device's own link.

    Raises:
        TransportError: `trust-unavailable`, when a file isn't there.
    """
    content: dict[tuple[str, str], bytes] = {}

    async def read(repo: str, file: str) -> _Signed:
        data = await signed.read(repo, file)
        if data is None:
            raise TransportError("trust-unavailable", f"{repo} has no {file} now")
        content[repo, file] = data
        return msgspec.json.decode(data, type=_Metadata).signed

    document = ""
    for repo in trust.REPOSITORIES:
        await read(repo, trust.NEWEST_ROOT_FILE)
        timestamp = await read(repo, trust.TIMESTAMP_FILE)
        number = timestamp.meta["snapshot.json"].version
        snapshot = await read(repo, f"{trust.METADATA_DIR}/{number}.snapshot.json")
        number = snapshot.meta["targets.json"].version
        targets = (await read(repo, f"{trust.METADATA_DIR}/{number}.targets.json")).targets
        if repo == trust.FLEET:
            document = targets[desired.FLEET_DOCUMENT].hashes["sha256"]
            file = f"{trust.TARGETS_DIR}/{document}.{desired.FLEET_DOCUMENT}"
            content[repo, file] = await signed.read(repo, file) or b""
    return Files(content, document)


class VerifiedFiles:
    """The trust of all devices of one process.

    Args:
        anchors: the folder with `releases.root.json` and `fleet.root.json`.
        state: a folder for verified files.
    """

    def __init__(self, anchors: Path, state: Path, fleet: str) -> None:
        self._fleet = fleet
        self._files: dict[tuple[str, str], bytes] = {}
        self._held = HeldFiles(state)
        self._trust = Trust(anchors, state, self, DeviceSettings(id="simulator", fleet=fleet))
        self._known: dict[str, FleetDocument] = {}
        self._lock = asyncio.Lock()
        self._root: Root | None = None

    async def document(self, files: Files) -> FleetDocument:
        """Return the fleet document of files that a device has received.

        Raises:
            EdgemlError: they are refused.
        """
        key = chunks.sha256(b"".join(files.content.values()))
        async with self._lock:
            if key not in self._known:
                self._files = files.content
                self._known[key] = await asyncio.to_thread(self._trust.desired)
        return self._known[key]

    def own_record(self, data: bytes, device: str) -> DeviceRecord:
        """Verify a device's record; a document was verified before.

        Raises:
            RejectedError: `document-format` or `signature-invalid`.
        """
        if self._root is None:
            root = self._held.read(trust.FLEET, trust.NEWEST_ROOT_FILE)
            assert root is not None  # noqa: S101 - see above
            self._root = Metadata[Root].from_bytes(root).signed
        return records.verified(data, self._root, fleet=self._fleet, device=device)

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        return self._files.get((repo, file))

    def record(self, _device: str) -> None:
        """See `TrustSource.record`: devices verify their own."""

    def site(self, _site: str) -> None:
        """See `TrustSource.site`: there are no relays."""
