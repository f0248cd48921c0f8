"""A bundle's files, verified chunk by chunk, in a temporary folder that lasts as long as its context."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeml_core.bundle import BundleReader
from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.manifest import Manifest


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of a bundle's files, and the manifest that lists them."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str


@contextmanager
def unpacked(bundle_path: Path) -> Iterator[Unpacked]:
    """Unpack a bundle into a temporary folder, which the end of the context removes.

    Raises:
        UsageError: `usage`, when the file can't be opened.
        RejectedError: `bundle-format` or `digest-mismatch`, when a file differs from its manifest.
        DeviceError: `disk-full`, when its files can't be written.
    """
    with tempfile.TemporaryDirectory(prefix="edgeml-") as name:
        folder = Path(name)
        yield _extract(bundle_path, folder)


def _extract(bundle_path: Path, folder: Path) -> Unpacked:
    try:
        source = bundle_path.open("rb")
    except OSError as error:
        raise UsageError("usage", f"{bundle_path} can't be read: {error.strerror}", "name a .edgeml file") from error
    with source:
        reader = BundleReader(source)
        for entry in reader.manifest.files:
            _write(folder / entry.path, reader.chunks(entry))
        return Unpacked(folder=folder, manifest=reader.manifest, manifest_sha256=reader.manifest_sha256)


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            for chunk in chunks:
                out.write(chunk)
    except OSError as error:
        hint = "free some space, or set TMPDIR to a folder with room"
        raise DeviceError("disk-full", f"the bundle can't be unpacked: {error}", hint) from error
