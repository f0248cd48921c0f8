"""Removal of chunks that nothing needs any more. Signed metadata stays: publishing a bundle again restores its chunks.

Needed are the chunks of each release but those that are withdrawn, or older than the versions to keep. A release that a
deployment of the signed document names is needed in any case. So is one that a rollout may sign later, and one that a
staged change would add.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import chunk_ids, layout, staging
from edgeml.repository.releases import Release, releases
from edgeml.repository.store import StoredChunk
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.errors import UsageError

#: Days for which a chunk that no release names is kept: earlier versions noted no staged change, which lies on a stick.
UNNAMED_KEPT: Final = timedelta(days=30)


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """The chunks that were removed, or would be, and the releases that can no longer be delivered."""

    chunks: int
    size_bytes: int
    releases: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def prune(
    repo: Path,
    *,
    keep: int | None = None,
    dry_run: bool = False,
    planned: Callable[[FleetDocument], Iterable[Deployment]] = lambda _: (),
    now: datetime | None = None,
) -> Pruned:
    """Remove the chunks that nothing needs.

    Args:
        repo: the repository's folder.
        keep: versions of each model whose chunks stay, the newest ones; None keeps all that aren't withdrawn.
        dry_run: only count.
        planned: returns the deployments that may be signed beside those of the document; called under the lock.
        now: the present time; by default the clock's.

    Raises:
        UsageError: `repo-invalid`; `usage`, when no version would be kept.
        TransportError: see `edgeml.repository.store.Storage`.
    """
    if keep is not None and keep < 1:
        raise UsageError("usage", f"{keep} versions to keep", "keep 1 or more")
    repository, now = layout.opened(repo), now or layout.utc_now()
    with repository.locked():
        published = releases(repository)
        document = repository.document()
        needed = _needed((*document.deployments, *planned(document)), published, keep)
        ids = _ids(it for it in published if it.manifest_sha256 in needed) | _ids(staging.staged_releases(repository))
        named = _ids(published)
        gone = [
            it
            for it in repository.chunks.stored()
            if it.chunk_id not in ids and (it.chunk_id in named or _is_old(it, now))
        ]
        pruned = Pruned(
            chunks=len(gone),
            size_bytes=sum(it.size_bytes for it in gone),
            releases=tuple(it.manifest.stem for it in published if _lacks(it, {it.chunk_id for it in gone})),
        )
        if gone and not dry_run:
            facts = {"chunks": pruned.chunks, "releases": ",".join(pruned.releases)}
            repository.audit.append("prune", repository.fleet_name, facts, now=now)
            repository.chunks.remove(it.chunk_id for it in gone)
    return pruned


def _needed(deployments: Iterable[Deployment], published: Sequence[Release], keep: int | None) -> set[str]:
    """Find the digests of the releases whose chunks stay."""
    needed = {bundle.manifest_sha256 for it in deployments for bundle in it.bundles}
    versions: defaultdict[str, list[str]] = defaultdict(list)
    for release in reversed(published):
        of_model = versions[release.manifest.name]
        if not release.withdrawn and release.manifest.version not in of_model:
            of_model.append(release.manifest.version)
    for release in published:
        if release.manifest.version in versions[release.manifest.name][:keep] and not release.withdrawn:
            needed.add(release.manifest_sha256)
    return needed


def _ids(published: Iterable[Release]) -> frozenset[str]:
    return frozenset(it for release in published for it in chunk_ids.stored(release))


def _lacks(release: Release, gone: set[str]) -> bool:
    return not gone.isdisjoint(chunk_ids.stored(release))


def _is_old(chunk: StoredChunk, now: datetime) -> bool:
    return now.timestamp() - chunk.stored_s > UNNAMED_KEPT.total_seconds()
