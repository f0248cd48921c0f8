"""Withdrawal of releases: the release key signs that no device installs them any more.

The mark stands in the signed description of each manifest, so a fleet key can neither set nor remove it. A device that
already serves a withdrawn release keeps it until another one is deployed: an old answer is better than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from edgeml.repository import deployments, layout
from edgeml.repository.releases import Release, releases
from edgeml_core import trust


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of a model that were changed, and the deployments that still name a withdrawn one."""

    name: str
    versions: tuple[str, ...]
    deployments: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def withdraw(
    repo: Path, name: str, version: str, *, and_older: bool = False, undo: bool = False, now: datetime | None = None
) -> Withdrawn:
    """Sign that no device installs a version any more; all its bundles, as one change.

    Args:
        repo: the repository's folder.
        name: the model.
        version: its version.
        and_older: also those of its versions that were published before.
        undo: let devices install them again.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `release-unknown`; `repo-invalid`, also when the release key is missing.
    """
    repository = layout.opened(repo)
    with repository.locked():
        published = releases(repository)
        deployments.check_published(published, name, version)
        versions = _versions(published, name)
        chosen = versions[: versions.index(version) + 1] if and_older else [version]
        changed = [it for it in _bundles(published, name, chosen) if it.withdrawn is undo]
        if changed:
            paths = [trust.manifest_target(it.manifest.stem) for it in changed]
            now, act = now or layout.utc_now(), "unwithdraw" if undo else "withdraw"
            repository.audit.append(act, name, {"versions": ",".join(chosen)}, now=now)
            repository.releases.set_withdrawn(paths, now, withdrawn=not undo)
        withdrawn = {it.manifest_sha256 for it in releases(repository) if it.withdrawn}
        naming = [
            it.id
            for it in repository.document().deployments
            if it.name == name and any(bundle.manifest_sha256 in withdrawn for bundle in it.bundles)
        ]
    return Withdrawn(
        name=name,
        versions=tuple(dict.fromkeys(it.manifest.version for it in changed)),
        deployments=tuple(naming),
    )


def _versions(published: Sequence[Release], name: str) -> list[str]:
    """List a model's versions in the order in which each was first published."""
    return list(dict.fromkeys(it.manifest.version for it in published if it.manifest.name == name))


def _bundles(published: Sequence[Release], name: str, versions: Sequence[str]) -> list[Release]:
    return [it for it in published if it.manifest.name == name and it.manifest.version in versions]
