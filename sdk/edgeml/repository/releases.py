"""Publication: bundles become signed releases.

Each chunk of a bundle is read once, checked and stored. Signing is last.
When one bundle of several is refused, none is published. Chunks that were stored until then stay, without a name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from edgeml import bundles as bundle_files
from edgeml.repository import layout
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import card, chunks, manifest, trust
from edgeml_core.bundle import BundleReader
from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import FileEntry, Manifest


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One release. `added` is false when it was released already, with the same content."""

    name: str
    version: str
    target: str
    format: str
    manifest_sha256: str
    size_bytes: int
    stored_bytes: int
    added: bool

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One signed release. It is encrypted for `group`, if that isn't empty. No device installs a withdrawn one."""

    manifest: Manifest
    manifest_sha256: str
    group: str = ""
    withdrawn: bool = False


def publish(
    repo: Path, bundles: Sequence[Path], *, group: str | None = None, now: datetime | None = None
) -> list[Published]:
    """Sign bundles and add them, as one change. New measurements of an earlier release are signed, too.

    Args:
        repo: the repository's folder.
        bundles: `.edgeml` files; measurements beside them are signed with them.
        group: encrypt them for devices that were enrolled with this group; None leaves an earlier release as it is.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `repo-invalid`; `release-exists`, for a name, version, target and format that is released with
            other content, or for another group.
        RejectedError: a bundle is malformed or damaged, or its measurements are another bundle's.
    """
    repository = layout.opened(repo)
    with repository.locked():
        changed, published = collect(repository, bundles, group)
        if changed:
            now = now or layout.utc_now()
            for target, data in changed.items():
                repository.audit.append("publish", target, {"sha256": chunks.sha256(data), "group": group}, now=now)
            repository.releases.change(changed, now)
    return published


def collect(
    repository: RepositoryFolder, bundles: Sequence[Path], group: str | None
) -> tuple[dict[str, bytes], list[Published]]:
    """Check bundles and store their chunks; the caller holds the lock, and signs.

    Returns:
        The new targets by path, and the releases. The errors are those of `publish`.
    """
    if group is not None:
        repository.groups.make(group)
    signed = repository.releases.digests()
    taken = dict(signed)
    contents: dict[str, bytes] = {}
    published = []
    for path in bundles:
        with bundle_files.opened(path) as reader:
            published.append(_store(repository, reader, taken))
            contents |= _targets(path, reader) | _mark(reader.manifest.stem, group, signed)
    return {path: data for path, data in contents.items() if signed.get(path) != chunks.sha256(data)}, published


def releases(repository: RepositoryFolder) -> list[Release]:
    """List all releases in the order of their publication."""
    paths = [path for path in repository.releases.targets() if not path.endswith(card.MEASUREMENTS_SUFFIX)]
    contents, withdrawn = repository.releases.read(paths), repository.releases.withdrawn()
    marks = {path: data.decode() for path, data in contents.items() if path.endswith(trust.GROUP_SUFFIX)}
    found = {path: manifest.decode(data) for path, data in contents.items() if path not in marks}
    return [
        Release(
            manifest=it,
            manifest_sha256=chunks.sha256(contents[path]),
            group=marks.get(trust.group_target(it.stem), ""),
            withdrawn=path in withdrawn,
        )
        for path, it in found.items()
    ]


def _mark(stem: str, group: str | None, signed: dict[str, str]) -> dict[str, bytes]:
    """Make the signed file that names the group of a release."""
    path = trust.group_target(stem)
    if group is None:
        return {}
    if trust.manifest_target(stem) in signed and signed.get(path) != chunks.sha256(group.encode()):
        message = f"{stem} is released already, not for group {group!r}"
        raise UsageError("release-exists", message, "export it under a new --version: a release never changes")
    return {path: group.encode()}


def _store(repository: RepositoryFolder, reader: BundleReader, taken: dict[str, str]) -> Published:
    release = reader.manifest
    path = trust.manifest_target(release.stem)
    added = path not in taken
    if taken.setdefault(path, reader.manifest_sha256) != reader.manifest_sha256:
        message = f"{release.stem} is released already, with other content"
        raise UsageError("release-exists", message, "export it under a new --version: a release never changes")
    # Also for an earlier release: publishing it again restores lost chunks.
    stored_bytes = sum(repository.chunks.add(_verified(reader, entry)) for entry in release.files)
    return Published(
        name=release.name,
        version=release.version,
        target=release.target,
        format=release.file_format,
        manifest_sha256=reader.manifest_sha256,
        size_bytes=release.size_bytes,
        stored_bytes=stored_bytes,
        added=added,
    )


def _verified(reader: BundleReader, entry: FileEntry) -> Iterator[bytes]:
    """Read the file's chunks, each checked; after the last one also the digest of the whole file."""
    whole = hashlib.sha256()
    for chunk in reader.chunks(entry):
        whole.update(chunk)
        yield chunk
    if whole.hexdigest() != entry.sha256:
        raise RejectedError("digest-mismatch", f"{entry.path!r} in the bundle has other content")


def _targets(path: Path, reader: BundleReader) -> dict[str, bytes]:
    stem = reader.manifest.stem
    targets = {trust.manifest_target(stem): reader.manifest_bytes}
    measurements = bundle_files.measurements(path, reader.manifest_sha256)
    if measurements is not None:
        targets[trust.measurements_target(stem)] = card.encode_measurements(measurements)
    return targets
