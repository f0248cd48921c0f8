"""Renewal of signatures before they expire, by hand (`edgeml repo refresh`) or by `edgeml fleet serve`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.metadata import Timestamp

from edgeml.repository import layout
from edgeml.repository.keys import FLEET_KEY
from edgeml.repository.layout import RepositoryFolder


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """The new expiry of each role of one TUF repository."""

    repository: str
    expires: dict[str, datetime]

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def refresh(repo: Path, *, now: datetime | None = None) -> list[Refreshed]:
    """Sign snapshot and timestamp of both TUF repositories again; targets and records when half their time is over.

    Args:
        repo: the repository's folder.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `repo-invalid`, also when the fleet key is missing.
    """
    return renew(layout.opened(repo), now or layout.utc_now())


def renew(repository: RepositoryFolder, now: datetime) -> list[Refreshed]:
    """Renew the signatures of a repository that is open; its keys may be unlocked already."""
    with repository.locked():
        repository.records.renew(now)
        return [Refreshed(repository=signed.name, expires=signed.refresh(now)) for signed in repository.both]


def unlock(repository: RepositoryFolder) -> None:
    """Open the fleet keys in the folder, so that no passphrase is needed later.

    Raises:
        UsageError: `repo-invalid`, when one can't be opened.
    """
    trusted, _ = repository.fleet.trusted(FLEET_KEY)
    repository.keys.signers(FLEET_KEY, trusted)


def is_due(repository: RepositoryFolder, now: datetime) -> bool:
    """Check whether a timestamp or a record has less than half of its time: devices that return need the other half."""
    return repository.records.is_due(now) or any(
        signed.load().expires[Timestamp.type] - now < signed.lifetimes[Timestamp.type] / 2 for signed in repository.both
    )
