"""The ids under which devices ask for chunks: plain, or encrypted where the release is for a group.

One chunk may have several ids: its own, and one for each group that has a release with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from edgeml.repository.groups import Groups
from edgeml.repository.releases import Release
from edgeml_core import wire_keys
from edgeml_core.sealing import Seal


class Sealed(NamedTuple):
    """The chunk of an encrypted id, and the cipher of its group."""

    chunk_id: str
    seal: Seal


class Location(NamedTuple):
    """Where a chunk stands: in which file of which model, and as which of its chunks."""

    model: str
    path: str
    number: int


def locations(published: Sequence[Release]) -> dict[str, Location]:
    """Return the place of each chunk by its plain id; the last published, if it has several."""
    return {
        wire_keys.chunk_id(digest): Location(release.manifest.name, entry.path, number)
        for release in published
        for entry in release.manifest.files
        for number, digest in enumerate(entry.chunks)
    }


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
        """Find the ids that devices of a release may name: its chunks, and the bases of their deltas."""
        if release.group:
            return frozenset(self._sealed(release))
        return stored(release)

    def own(self, release: Release) -> Mapping[str, Sealed | None]:
        """Find the ids of a release's own chunks; each encrypted id with its chunk."""
        if release.group:
            return self._named(release.group, _digests(release))
        return dict.fromkeys(map(wire_keys.chunk_id, _digests(release)))

    def _sealed(self, release: Release) -> dict[str, Sealed]:
        """Find the encrypted ids. A delta reveals its base, so a base must not be a secret of another group."""
        if not release.group:
            return {}
        versions = [it for it in self._published if it.manifest.name == release.manifest.name]
        readable = [it for it in versions if it.group in {"", release.group}]
        return self._named(release.group, (digest for it in readable for digest in _digests(it)))

    def _named(self, group: str, digests: Iterator[str]) -> dict[str, Sealed]:
        seal = self._seals[group]
        return {seal.chunk_id(digest): Sealed(wire_keys.chunk_id(digest), seal) for digest in digests}


def _digests(release: Release) -> Iterator[str]:
    return (digest for entry in release.manifest.files for digest in entry.chunks)


def stored(release: Release) -> frozenset[str]:
    """Return the ids under which a release's chunks are stored: those of their plain content."""
    return frozenset(map(wire_keys.chunk_id, _digests(release)))
