"""The two TUF repositories as this device trusts them, and what both agree on.

Trust begins at the anchors that `edgeml device enroll` wrote. `tuf_client` verifies each repository.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, TargetFile

from edgeml_agent import log
from edgeml_agent.ports import SiteRecord, TrustSource
from edgeml_agent.settings import DeviceSettings
from edgeml_agent.store import locks
from edgeml_agent.trust.records import OwnRecord
from edgeml_agent.trust.time_floor import FOLDER_NAME, TimeFloor
from edgeml_agent.trust.tuf_client import CURRENT, TufClient
from edgeml_agent.trust.withdrawals import withdrawn
from edgeml_core import chunks, desired, records, trust
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError
from edgeml_core.records import DeviceRecord

#: Bytes of a trust anchor: python-tuf's own bound of a root.
ANCHOR_MAX_BYTES: Final = 512_000
#: Files whose names have no number in a repository's folder.
_UNNUMBERED: Final = {Path(file).name for file in (trust.TIMESTAMP_FILE, trust.NEWEST_ROOT_FILE)}
#: python-tuf takes this HTTP status for an absent file.
_NOT_FOUND: Final = 404


class Fetcher(FetcherInterface):
    """python-tuf's fetcher port, over a `TrustSource`; the URLs are `REPO/FILE`."""

    def __init__(self, source: TrustSource) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        repo, _, file = url.partition("/")
        data = self._source.read(repo, file)
        if data is None:
            raise DownloadHTTPError(f"{file} doesn't exist", _NOT_FOUND)
        if file.startswith(f"{trust.METADATA_DIR}/"):
            trust.check_repository(data, repo)
        return iter((data,))


class HeldFiles:
    """A `TrustSource` of the files that this device has already verified, for use without any other."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        try:
            return (self._state / FOLDER_NAME / repo / CURRENT / Path(file).name).read_bytes()
        except OSError:
            return None

    def record(self, device: str) -> None:
        """See `TrustSource.record`: the device knows its own already."""

    def site(self, site: str) -> None:
        """See `TrustSource.site`; nothing is kept of other devices."""


def verified_metadata(state: Path) -> dict[tuple[str, str], bytes]:
    """Return the metadata that this device has verified, by repository and file as a repository's folder names it.

    Raises:
        DeviceError: `store-failed`.
    """
    found: dict[tuple[str, str], bytes] = {}
    with locks.held(state / locks.TRUST):
        for repo in trust.REPOSITORIES:
            folder = state / FOLDER_NAME / repo / CURRENT
            for path in (*folder.glob("*.json"), *folder.glob("*/*.root.json")):
                try:
                    data = path.read_bytes()
                except OSError as error:
                    message = f"trusted metadata can't be read: {error}"
                    raise DeviceError("store-failed", message, "check that [store] dir is readable") from error
                has_name = path.parent != folder or path.name in _UNNUMBERED
                name = path.name if has_name else f"{trust.unverified_version(data)}.{path.name}"
                found[repo, f"{trust.METADATA_DIR}/{name}"] = data
    return found


class Trust:
    """The trust of one device. Methods block, and run one at a time.

    Args:
        anchors: the folder with `releases.root.json` and `fleet.root.json`.
        state: the store's folder.
        source: where signed files and records come from.
        device: the device's id and fleet.
        time: the device's clock, by which metadata expires.
    """

    def __init__(
        self, anchors: Path, state: Path, source: TrustSource, device: DeviceSettings, time: TimeFloor | None = None
    ) -> None:
        self._anchors = anchors
        self._state = state
        self._source = source
        self._fleet = device.fleet
        now = (time or TimeFloor(anchors, state)).now
        self._record = OwnRecord(anchors, state, source, device, now)
        self._lock_path = state / locks.TRUST
        self._clients = {
            repo: TufClient(
                repo,
                state / FOLDER_NAME / repo,
                urls=(f"{repo}/{trust.METADATA_DIR}", f"{repo}/{trust.TARGETS_DIR}"),
                fetcher=Fetcher(source),
                now=now,
            )
            for repo in trust.REPOSITORIES
        }
        self._lock = threading.Lock()

    def desired(self) -> FleetDocument:
        """See `ports.Trust.desired`."""
        with self._lock, locks.held(self._lock_path):
            # Fleet before releases: the origin publishes them in the other order, so a named release exists.
            refused = [error for repo in (trust.FLEET, trust.RELEASES) if (error := self._refresh(repo))]
            if refused:
                raise refused[0]
            data = self._download(trust.FLEET, self._clients[trust.FLEET].find_target(desired.FLEET_DOCUMENT))
        if data is None:
            raise RejectedError("document-format", "the fleet repository has no fleet document")
        return desired.decode(data)

    def record(self) -> DeviceRecord:
        """See `ports.Trust.record`."""
        with self._lock, locks.held(self._lock_path):
            return self._record.newest(self._clients[trust.FLEET].root())

    def site(self, site: str) -> dict[str, SiteRecord]:
        """Return the records of a site's devices that the fleet's keys have signed, by device.

        Raises:
            RejectedError: `document-format`, when they can't be unpacked. TransportError: they can't be fetched.
        """
        packed, found = self._source.site(site), {}
        with self._lock, locks.held(self._lock_path):
            root = self._clients[trust.FLEET].root()
        for line in [] if packed is None else records.unpack_site(packed):
            try:
                record = records.verified(line, root, fleet=self._fleet)
            except RejectedError as error:
                log.failure("record of a device ignored", error)
                continue
            if record.labels.get(desired.SITE_LABEL) == site:
                found[record.device] = SiteRecord(record=record, line=line)
        return found

    def manifest(self, stem: str, digest: str) -> bytes:
        """See `ports.Trust.manifest`."""
        with self._lock, locks.held(self._lock_path):
            if not self._clients[trust.RELEASES].is_fresh:
                self._clients[trust.RELEASES].refresh(self._anchor(trust.RELEASES))
            listed = self._clients[trust.RELEASES].find_target(trust.manifest_target(stem))
            if listed is not None and trust.is_withdrawn(listed):
                raise trust.withdrawn_error(stem)
            try:
                data = self._download(trust.RELEASES, listed)
            except RejectedError as error:
                # The transport damaged it, not its signer: another copy is still wanted.
                raise TransportError(
                    error.code, error.message, "check the broker's rules for who may publish signed files"
                ) from error
        if data is None:
            hint = "publish the release: a device installs only releases that both repositories name"
            raise TransportError("trust-unavailable", f"the releases repository doesn't list {stem}", hint)
        if chunks.sha256(data) != digest:
            message = f"the fleet document names another {stem} than the releases repository"
            raise RejectedError("digest-mismatch", message, "deploy the released version")
        return data

    def withdrawn(self) -> frozenset[str]:
        """See `ports.Trust.withdrawn`."""
        return withdrawn(self._state)

    def _refresh(self, repo: str) -> RejectedError | None:
        """Refresh a repository; return why it was refused. The other is refreshed in any case, for new keys."""
        try:
            self._clients[repo].refresh(self._anchor(repo))
        except RejectedError as error:
            return error
        return None

    def _download(self, repo: str, listed: TargetFile | None) -> bytes | None:
        return None if listed is None else self._clients[repo].download(listed)

    def _anchor(self, repo: str) -> bytes:
        path = self._anchors / f"{repo}.root.json"
        try:
            with path.open("rb") as anchor:
                return anchor.read(ANCHOR_MAX_BYTES)
        except OSError as error:
            hint = "copy the trust folder that `edgeml device enroll` wrote, or set [trust] root in agent.toml"
            raise UsageError("config-invalid", f"can't read the trust anchor {path}: {error}", hint) from error
