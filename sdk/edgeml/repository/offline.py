"""The part of the repository for one site, in a folder: for a USB stick, where there is no network.

`edgeml-agent install` reads it. The copy has both TUF repositories, the records of the site's devices, and the chunks
that these may need.
Devices verify it like messages from the broker. It holds no key; a finder learns no more than a client of the broker.
Chunks for a group are encrypted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import layout
from edgeml.repository.chunk_ids import Outgoing, Sealed
from edgeml.repository.layout import CHUNKS_FOLDER, RepositoryFolder
from edgeml.repository.releases import releases
from edgeml.repository.signed import SignedRepository
from edgeml_core import desired, records, sealing, trust
from edgeml_core.errors import UsageError
from edgeml_io import files

#: Validity of the signatures of a copy: half a year, since a stick travels and waits. An old copy is accepted as long.
OFFLINE_LIFETIME: Final = timedelta(days=180)
#: The file that marks a folder of `mirror`.
MIRROR_FILE: Final = "edgeml-chunks"
_LIFETIMES: Final = {**trust.EXPIRY, "snapshot": OFFLINE_LIFETIME, "timestamp": OFFLINE_LIFETIME}


class SiteCopy(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one site's copy, the size of its chunks, and the time until which devices accept it."""

    site: str
    devices: tuple[str, ...]
    releases: tuple[str, ...]
    chunks: int
    size_bytes: int
    expires: datetime

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def export_site(repo: Path, site: str, out_dir: Path, *, now: datetime | None = None) -> SiteCopy:
    """Write a site's part of the repository to a folder, or bring an earlier copy there up to date.

    Every state has a version of its own: the copy's is newer than any state before it, and older than the next one. So
    a device accepts the copy after any message from the network, and the network's next state after the copy.

    Args:
        repo: the repository's folder.
        site: the value of the devices' label `site`.
        out_dir: a folder that is new, empty, or has an earlier copy.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, when no device has that label or the folder can't be used; `repo-invalid`.
        RejectedError: `digest-mismatch`, when a chunk is lost or damaged in the repository.
    """
    repository, now = layout.opened(repo), now or layout.utc_now()
    _require_usable(out_dir)
    with repository.locked():
        repository.records.renew(now)
        known = {device: it for device, it in repository.records.all().items() if it.site == site}
        devices = {device: it.record.labels for device, it in known.items() if not it.record.revoked}
        if not devices:
            message = f"no enrolled device has the label {desired.SITE_LABEL}={site}"
            raise UsageError("usage", message, "see the devices and their labels with `edgeml device list`")
        stems, outgoing = _wanted(repository, devices)
        try:
            size_bytes = _copy_chunks(repository, outgoing, out_dir / CHUNKS_FOLDER)
            _copy_records(repository.records.encoded(known), out_dir / records.RECORDS_DIR)
            expires = [_copy_signed(signed, out_dir / signed.name, now) for signed in repository.both]
        except OSError as error:
            message = f"{out_dir} can't be written: {error.strerror or error}"
            raise UsageError("usage", message, "use a stick with free space, and repeat the command") from error
    return SiteCopy(
        site=site,
        devices=tuple(sorted(devices)),
        releases=stems,
        chunks=len(outgoing),
        size_bytes=size_bytes,
        expires=min(expires),
    )


def mirror(repo: Path, out_dir: Path) -> int:
    """Write the chunks of all releases that aren't withdrawn as files for a web server: `DIR/ab/ab12...`.

    Chunks of a release for a group are encrypted, as they are over the broker. Files that are there already stay as
    they are, so that caches stay valid; those of other chunks are removed.

    Args:
        repo: the repository's folder.
        out_dir: new, or of an earlier call.

    Returns:
        The number of chunks.

    Raises:
        UsageError: `usage`, when the folder can't be used; `repo-invalid`.
        RejectedError: `digest-mismatch`, when a chunk is lost or damaged in the repository.
    """
    repository = layout.opened(repo)
    if out_dir.exists() and not (out_dir / MIRROR_FILE).exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UsageError("usage", f"{out_dir} has other content", "name a new folder, or that of an earlier mirror")
    with repository.locked():
        published = [it for it in releases(repository) if not it.withdrawn]
        outgoing = Outgoing(published, repository.groups)
        wanted = {chunk_id: sealed for it in published for chunk_id, sealed in outgoing.own(it).items()}
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            paths = {key: out_dir / key[:2] / key for key in wanted}
            lacking = {key: sealed for key, sealed in sorted(wanted.items()) if not paths[key].is_file()}
            marker = _place(out_dir / MIRROR_FILE, b"chunks of edgeml\n")
            for key, payload in _payloads(repository, lacking):
                _place(paths[key], payload)
            _keep_only(out_dir, {marker, *paths.values()})
        except OSError as error:
            message = f"{out_dir} can't be written: {error.strerror or error}"
            raise UsageError("usage", message, "free space on its disk, and repeat the command") from error
    return len(wanted)


def _require_usable(folder: Path) -> None:
    is_copy = (folder / trust.FLEET / trust.TIMESTAMP_FILE).is_file() and not (folder / layout.CONFIG_FILE).exists()
    if folder.exists() and not is_copy and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("usage", f"{folder} has other content", "name a new folder, or that of an earlier copy")


def _wanted(
    repository: RepositoryFolder, devices: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[str, ...], dict[str, Sealed | None]]:
    """Find the releases for the site's devices, and their chunks by id; those for a group are encrypted."""
    digests = {bundle.manifest_sha256 for _, bundle in desired.bundles_at(repository.document(), devices)}
    wanted = [release for release in releases(repository) if release.manifest_sha256 in digests]
    outgoing = Outgoing(wanted, repository.groups)
    found = {chunk_id: sealed for release in wanted for chunk_id, sealed in outgoing.own(release).items()}
    return tuple(release.manifest.stem for release in wanted), found


def _payloads(repository: RepositoryFolder, outgoing: Mapping[str, Sealed | None]) -> Iterator[tuple[str, bytes]]:
    """Read the payload of each outgoing chunk, as it is sent."""
    stored = [sealed.chunk_id if sealed else key for key, sealed in outgoing.items()]
    for (key, sealed), payload in zip(outgoing.items(), repository.chunks.wires(stored), strict=True):
        yield key, sealed.seal.close(payload, key) if sealed else payload


def _copy_chunks(repository: RepositoryFolder, outgoing: Mapping[str, Sealed | None], folder: Path) -> int:
    """Copy the chunks, and remove others.

    Returns:
        The bytes of all chunks.
    """
    size_bytes, paths = 0, set()
    for key, payload in _payloads(repository, dict(sorted(outgoing.items()))):
        data = sealing.to_disk(payload) if outgoing[key] else payload
        paths.add(_place(folder / key[:2] / key, data))
        size_bytes += len(data)
    _keep_only(folder, paths)
    return size_bytes


def _copy_records(lines: Mapping[str, bytes], folder: Path) -> None:
    """Copy the records of the site's devices, also of revoked ones, in the files of a repository; remove others."""
    by_file: defaultdict[str, list[bytes]] = defaultdict(list)
    for device, line in sorted(lines.items()):
        by_file[records.file_of(device)].append(line)
    _keep_only(folder, {_place(folder / name, b"\n".join(found)) for name, found in by_file.items()})


def _copy_signed(signed: SignedRepository, folder: Path, now: datetime) -> datetime:
    """Copy one TUF repository, with long-lived signatures, the timestamp last.

    Returns:
        The time when it expires.
    """
    with _long_lived(signed, now) as expires:
        paths = {_place(folder / file, (signed.folder / file).read_bytes()) for file in signed.files()}
    _keep_only(folder, paths)
    return expires


@contextmanager
def _long_lived(signed: SignedRepository, now: datetime) -> Iterator[datetime]:
    """Sign the repository for a long time while the block runs, and for the usual time after it."""
    try:
        yield min(signed.refresh(now, _LIFETIMES).values())
    finally:
        signed.refresh(now)


def _place(path: Path, data: bytes) -> Path:
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data)
    return path


def _keep_only(folder: Path, paths: set[Path]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path not in paths:
            path.unlink()
