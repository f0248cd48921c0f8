"""One TUF repository as this device has judged it: python-tuf is the judge, this file keeps what it has judged.

python-tuf writes its files without syncing them, and takes a damaged one for an absent one, forgetting which version it
had seen: so it works in a copy, and the copy replaces the original as a whole, synced. Where files come from is the
fetcher's business: MQTT, a stick; HTTP in the tests. Deliberately absent: delegations (`edgeml_core.trust`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import FetcherInterface, TargetFile, Updater, UpdaterConfig

from edgeml_core import trust
from edgeml_core.errors import DeviceError, RejectedError
from edgeml_io import files

#: In the repository's folder, the link to what was judged last.
CURRENT: Final = "current"


class TufClient:
    """A repository's newest metadata, as far as it is right.

    Args:
        name: for messages.
        folder: for what was judged.
        urls: where metadata and targets are, as the fetcher understands it.
        now: the time by which metadata expires.
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
        """Bring it up to date. What was judged right is kept, also when what follows it is refused.

        Args:
            anchor: the first root, which is trusted.

        Raises:
            RejectedError: what was offered is forged, old, expired or malformed. TransportError: it can't be had.
            DeviceError: `store-failed`.
        """
        self._updater = None
        with _translated(self._name), _replaced(self._folder) as folder:
            metadata_url, target_url = self._urls
            updater = Updater(
                str(folder),
                metadata_url,
                target_base_url=target_url,
                fetcher=self._fetcher,
                config=UpdaterConfig(max_root_rotations=trust.ROOT_ROTATIONS_MAX, max_delegations=0),
                bootstrap=anchor,
            )
            # python-tuf has no other place for a time that isn't the clock's.
            updater._trusted_set.reference_time = self._now()  # noqa: SLF001
            updater.refresh()
        self._updater = updater

    def listed(self, path: str) -> TargetFile | None:
        """What was signed about a target; None for one that isn't listed. The last refresh has succeeded."""
        assert self._updater is not None  # noqa: S101 - the caller's business
        with _translated(self._name):
            return self._updater.get_targetinfo(path)

    def fetched(self, target: TargetFile) -> bytes:
        """A target's content, as it was signed. Errors are those of `refresh`."""
        assert self._updater is not None  # noqa: S101 - the caller's business
        with _translated(self._name), tempfile.TemporaryDirectory(dir=self._folder.parent) as folder:
            return Path(self._updater.download_target(target, str(Path(folder, "target")))).read_bytes()


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
        files.sync_tree(copy)
        link = folder / "next"
        link.symlink_to(copy.name)
        link.replace(current)
        files.sync(folder)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        if isinstance(error.__cause__, RejectedError):  # the fetcher's, which python-tuf has wrapped
            raise error.__cause__ from error
        raise trust.translate(error, name) from error
    except OSError as error:
        raise DeviceError("store-failed", f"trusted metadata can't be kept: {error}", "check [store] dir") from error
