"""The two TUF repositories as this device trusts them: python-tuf judges, this file keeps what it has judged.

Trust begins at the anchors that `edgeml device enroll` wrote. python-tuf writes its files without syncing them, and
takes a damaged one for an absent one, forgetting which version it had seen: so it works in a copy, and the copy
replaces the original as a whole, synced. Deliberately absent: delegations (`edgeml_core.trust`).
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, TargetFile, Updater, UpdaterConfig

from edgeml_agent import durable, locks
from edgeml_agent.ports import TrustSource
from edgeml_agent.timefloor import CURRENT, FOLDER_NAME, TimeFloor
from edgeml_core import chunks, desired, trust
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError

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
        self._time = time or TimeFloor(anchors, state)
        self._state = state / FOLDER_NAME
        self._lock_path = state / locks.TRUST
        self._fetcher = Fetcher(source)
        self._updaters: dict[str, Updater] = {}
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
            if trust.RELEASES not in self._updaters:
                self._refresh(trust.RELEASES)
            data = self._target(trust.RELEASES, trust.manifest_target(stem))
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
            self._refresh(repo)
        except RejectedError as error:
            return error
        return None

    def _refresh(self, repo: str) -> None:
        """Bring one repository up to date. What was judged right is kept, also when what follows it is refused."""
        self._updaters.pop(repo, None)
        with _translated(repo), _replaced(self._state / repo) as folder:
            config = UpdaterConfig(max_root_rotations=trust.ROOT_ROTATIONS_MAX, max_delegations=0)
            updater = Updater(
                str(folder),
                f"{repo}/{trust.METADATA_DIR}",
                target_base_url=f"{repo}/{trust.TARGETS_DIR}",
                fetcher=self._fetcher,
                config=config,
                bootstrap=self._anchor(repo),
            )
            # python-tuf has no other place for a time that isn't the clock's.
            updater._trusted_set.reference_time = self._time.now()  # noqa: SLF001
            updater.refresh()
        self._updaters[repo] = updater

    def _target(self, repo: str, path: str) -> bytes | None:
        updater = self._updaters[repo]
        with _translated(repo), tempfile.TemporaryDirectory(dir=self._state) as folder:
            info: TargetFile | None = updater.get_targetinfo(path)
            if info is None:
                return None
            return Path(updater.download_target(info, str(Path(folder, "target")))).read_bytes()

    def _anchor(self, repo: str) -> bytes:
        path = self._anchors / f"{repo}.root.json"
        try:
            with path.open("rb") as anchor:
                return anchor.read(ANCHOR_MAX_BYTES)
        except OSError as error:
            hint = "copy the trust folder that `edgeml device enroll` wrote, or set [trust] root in agent.toml"
            raise UsageError("config-invalid", f"the trust anchor {path} can't be read: {error}", hint) from error


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A copy of `folder/current` to work in, which takes its place at the end, however the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    current = folder / CURRENT
    now = current.readlink().name if current.is_symlink() else ""
    for old in folder.iterdir():
        if old.name not in {CURRENT, now}:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    copy = Path(tempfile.mkdtemp(dir=folder))
    if now:
        shutil.copytree(folder / now, copy, symlinks=True, dirs_exist_ok=True)
    try:
        yield copy
    finally:
        durable.sync_tree(copy)
        link = folder / "next"
        link.symlink_to(copy.name)
        link.replace(current)
        durable.sync(folder)


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        raise trust.translate(error, repo) from error
    except OSError as error:
        raise DeviceError("store-failed", f"trusted metadata can't be kept: {error}", "check [store] dir") from error
