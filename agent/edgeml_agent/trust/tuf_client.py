"""One TUF repository as this device has verified it: python-tuf verifies, this file keeps the result.

python-tuf writes its files without syncing them. It takes a damaged file for an absent one, and so forgets the version
that it had seen. So it works in a copy, and the synced copy replaces the original as a whole. The fetcher decides where
files come from: MQTT, a stick, HTTP in tests. Delegations are deliberately absent (see `edgeml_core.trust`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface, TargetFile, Updater, UpdaterConfig

from edgeml_core import trust
from edgeml_core.errors import DeviceError, EdgemlError
from edgeml_io import files

#: Name of the link, in the repository's folder, to the files verified last.
CURRENT: Final = "current"


class TufClient:
    """The newest verified metadata of a repository.

    Args:
        name: for messages.
        folder: for the verified files.
        urls: of metadata and targets, as the fetcher understands them.
        now: returns the time by which metadata expires.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        urls: tuple[str, str],
        fetcher: FetcherInterface,
        now: Callable[[], datetime],
    ) -> None:
        self._name = name
        self._folder = folder
        self._urls = urls
        self._fetcher = fetcher
        self._now = now
        self._updater: Updater | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the last refresh succeeded."""
        return self._updater is not None

    def refresh(self, anchor: bytes) -> None:
        """Update the metadata. Files that were verified stay, even if a later one is refused.

        Args:
            anchor: the first root, which is trusted.

        Raises:
            RejectedError: the metadata is forged, old, expired or malformed.
            TransportError: the metadata can't be fetched.
            DeviceError: `store-failed`.
        """
        self._updater = None
        with _translate_errors(self._name), _replace_folder(self._folder) as folder:
            metadata_url, target_url = self._urls
            updater = Updater(
                str(folder),
                metadata_url,
                target_base_url=target_url,
                fetcher=self._fetcher,
                config=UpdaterConfig(max_root_rotations=trust.ROOT_ROTATIONS_MAX, max_delegations=0),
                bootstrap=anchor,
            )
            # python-tuf takes a reference time nowhere else.
            updater._trusted_set.reference_time = self._now()  # noqa: SLF001
            updater.refresh()
        self._updater = updater

    def root(self) -> Root:
        """Return the newest root that this device has verified.

        Raises:
            RejectedError: it is damaged. DeviceError: `store-failed`.
        """
        with _translate_errors(self._name):
            return Metadata[Root].from_bytes((self._folder / CURRENT / "root.json").read_bytes()).signed

    def find_target(self, path: str) -> TargetFile | None:
        """Return the signed description of a target; None if it isn't listed. The last refresh must have succeeded."""
        assert self._updater is not None  # noqa: S101 - the caller refreshes first
        with _translate_errors(self._name):
            return self._updater.get_targetinfo(path)

    def download(self, target: TargetFile) -> bytes:
        """Return a target's verified content. Errors are those of `refresh`."""
        assert self._updater is not None  # noqa: S101 - the caller refreshes first
        with _translate_errors(self._name), tempfile.TemporaryDirectory(dir=self._folder) as folder:
            return Path(self._updater.download_target(target, str(Path(folder, "target")))).read_bytes()


@contextmanager
def _replace_folder(folder: Path) -> Iterator[Path]:
    """Yield a copy of `folder/current`. At the end it replaces the original if it differs, however the block ends.

    The copy shares the original's files, which python-tuf only ever replaces. So a refresh that finds nothing new
    writes and syncs no metadata: a device refreshes every ten minutes, for years, on an SD card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    current = folder / CURRENT
    now = current.readlink().name if current.is_symlink() else ""
    for old in folder.iterdir():
        if old.name not in {CURRENT, now}:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    copy = Path(tempfile.mkdtemp(dir=folder))
    if now:
        shutil.copytree(folder / now, copy, symlinks=True, dirs_exist_ok=True, copy_function=_share)
    try:
        yield copy
    finally:
        if now and _content(folder / now) == _content(copy):
            shutil.rmtree(copy)
        else:
            files.sync_tree(copy)
            link = folder / "next"
            link.symlink_to(copy.name)
            link.replace(current)
            files.sync(folder)


def _share(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, destination, follow_symlinks=False)


def _content(folder: Path) -> dict[str, bytes]:
    """Return a folder's files, and the targets of its links, by their relative names."""
    return {
        path.relative_to(folder).as_posix(): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        if isinstance(error.__cause__, EdgemlError):  # the fetcher's, which python-tuf has wrapped
            raise error.__cause__ from error
        raise trust.translate(error, name) from error
    except OSError as error:
        raise DeviceError(
            "store-failed", f"can't store trusted metadata: {error}", "check that [store] dir is writable"
        ) from error
