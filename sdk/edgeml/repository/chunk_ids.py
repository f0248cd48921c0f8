"""What leaves the repository: chunks by the ids that devices ask for, encrypted where their release is for a group.

The same chunk may go out under several ids: plain, and sealed for each group that has a release with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from edgeml.repository.groups import Groups
from edgeml.repository.releases import Release
from edgeml_core import wire_keys
from edgeml_core.sealing import Seal


class Sealed(NamedTuple):
    """What a sealed id stands for."""

    chunk_id: str
    seal: Seal


class Outgoing:
    """The ids of all chunks of some releases.

    Raises:
        UsageError: `repo-invalid`, when the key of a group is missing.
    """

    def __init__(self, published: Sequence[Release], groups: Groups) -> None:
        self._published = published
        self._seals = {group: groups.seal(group) for group in {it.group for it in published} if group}
        self.sealed: dict[str, Sealed] = {}
        for release in published:
            self.sealed |= self._sealed(release)

    def ids(self, release: Release) -> frozenset[str]:
        """The ids that devices which are to have a release may name: of its chunks, and of bases of theirs."""
        if release.group:
            return frozenset(self._sealed(release))
        return frozenset(map(wire_keys.chunk_id, _digests(release)))

    def own(self, release: Release) -> Mapping[str, Sealed | None]:
        """The ids of a release's chunks alone, with what those that are sealed stand for."""
        if release.group:
            return self._named(release.group, _digests(release))
        return dict.fromkeys(map(wire_keys.chunk_id, _digests(release)))

    def _sealed(self, release: Release) -> dict[str, Sealed]:
        """The sealed ids; a difference tells of its base, so that must be no secret of another group."""
        if not release.group:
            return {}
        versions = [it for it in self._published if it.manifest.name == release.manifest.name]
        told = [it for it in versions if it.group in {"", release.group}]
        return self._named(release.group, (digest for it in told for digest in _digests(it)))

    def _named(self, group: str, digests: Iterator[str]) -> dict[str, Sealed]:
        seal = self._seals[group]
        return {seal.chunk_id(digest): Sealed(wire_keys.chunk_id(digest), seal) for digest in digests}


def _digests(release: Release) -> Iterator[str]:
    return (digest for entry in release.manifest.files for digest in entry.chunks)
