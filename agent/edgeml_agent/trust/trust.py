"""The two TUF repositories as this device trusts them, and what both of them agree on.

Trust begins at the anchors that `edgeml device enroll` wrote. How one repository is judged is `judged`'s business.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from edgeml_agent.ports import TrustSource
from edgeml_agent.store import locks
from edgeml_agent.trust.time_floor import FOLDER_NAME, TimeFloor
from edgeml_agent.trust.tuf_client import CURRENT, TufClient
from edgeml_core import chunks, desired, trust
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import RejectedError, TransportError, UsageError

ANCHOR_MAX_BYTES: Final = 512_000
_NOT_FOUND: Final = 404


class Fetcher(FetcherInterface):
    """python-tuf's port to the world, over a `TrustSource`; the URLs are `REPO/FILE`."""

    def __init__(self, source: TrustSource) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        repo, _, file = url.partition("/")
        data = self._source.read(repo, file)
        if data is None:
            raise DownloadHTTPError(f"there is no {file}", _NOT_FOUND)
        if file.startswith(f"{trust.METADATA_DIR}/"):
            trust.require_repository(data, repo)
        return iter((data,))


class HeldFiles:
    """What this device has judged before, as a `TrustSource` for when no other is there."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        try:
            return (self._state / FOLDER_NAME / repo / CURRENT / Path(file).name).read_bytes()
        except OSError:
            return None


class Trust:
    """The trust of one device. Methods block, and one at a time runs.

    Args:
        anchors: the folder with `releases.root.json` and `fleet.root.json`.
        state: the store's folder.
        time: this device's, by which metadata expires.
    """

    def __init__(self, anchors: Path, state: Path, source: TrustSource, time: TimeFloor | None = None) -> None:
        self._anchors = anchors
        self._lock_path = state / locks.TRUST
        self._judged = {
            repo: TufClient(
                repo,
                state / FOLDER_NAME / repo,
                urls=(f"{repo}/{trust.METADATA_DIR}", f"{repo}/{trust.TARGETS_DIR}"),
                fetcher=Fetcher(source),
                now=(time or TimeFloor(anchors, state)).now,
            )
            for repo in trust.REPOSITORIES
        }
        self._lock = threading.Lock()

    def desired(self) -> FleetDocument:
        """See `ports.Trust.desired`."""
        with self._lock, locks.held(self._lock_path):
            # What exists after who should run it: the origin publishes in the other order.
            refused = [error for repo in (trust.FLEET, trust.RELEASES) if (error := self._refused(repo))]
            if refused:
                raise refused[0]
            data = self._target(trust.FLEET, desired.FLEET_DOCUMENT)
        if data is None:
            raise RejectedError("document-format", "the fleet repository has no fleet document")
        return desired.decode(data)

    def manifest(self, stem: str, digest: str) -> bytes:
        """See `ports.Trust.manifest`."""
        with self._lock, locks.held(self._lock_path):
            if not self._judged[trust.RELEASES].is_fresh:
                self._judged[trust.RELEASES].refresh(self._anchor(trust.RELEASES))
            try:
                data = self._target(trust.RELEASES, trust.manifest_target(stem))
            except RejectedError as error:
                # Whoever sent it isn't who signed it: a right copy is still wanted.
                raise TransportError(error.code, error.message, "check who may publish signed files") from error
        if data is None:
            hint = "publish the release; a device installs only what both repositories agree on"
            raise TransportError("trust-unavailable", f"the releases repository doesn't list {stem}", hint)
        if chunks.sha256(data) != digest:
            message = f"the fleet document names another {stem} than the one that was released"
            raise RejectedError("digest-mismatch", message, "deploy the released version")
        return data

    def _refused(self, repo: str) -> RejectedError | None:
        """Why the newest of a repository is refused. The other is looked at all the same: it may have new keys."""
        try:
            self._judged[repo].refresh(self._anchor(repo))
        except RejectedError as error:
            return error
        return None

    def _target(self, repo: str, path: str) -> bytes | None:
        listed = self._judged[repo].listed(path)
        return None if listed is None else self._judged[repo].fetched(listed)

    def _anchor(self, repo: str) -> bytes:
        path = self._anchors / f"{repo}.root.json"
        try:
            with path.open("rb") as anchor:
                return anchor.read(ANCHOR_MAX_BYTES)
        except OSError as error:
            hint = "copy the trust folder that `edgeml device enroll` wrote, or set [trust] root in agent.toml"
            raise UsageError("config-invalid", f"the trust anchor {path} can't be read: {error}", hint) from error
