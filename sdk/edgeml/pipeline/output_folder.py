"""The folder that bundles are written to: another bundle of the same name and version is never replaced unasked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeml.bundles import Bundle
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core import card, names
from edgeml_core.bundle import BUNDLE_SUFFIX
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.manifest import Format

_HINT: Final = "give another --version or another folder with -o, or replace it with --overwrite"


def check_free(request: ExportRequest, name: str, source_sha256: str, planned: Iterable[tuple[str, Format]]) -> None:
    """Refuse before any work what would replace a bundle of another model.

    Args:
        request: its folder, version and `overwrite` are read.
        name: of the release.
        source_sha256: digest of the model to export.
        planned: target and format of each bundle that may be written.

    Raises:
        UsageError: `bundle-exists`.
    """
    if request.overwrite:
        return
    for target, file_format in planned:
        path = request.output / f"{names.bundle_stem(name, request.version, target, file_format)}{BUNDLE_SUFFIX}"
        found = _opened(path)
        if found and found.manifest.provenance.source_sha256 != source_sha256:
            raise UsageError("bundle-exists", f"{path} was exported from another model", _HINT)


def deliver(request: ExportRequest, packed: Sequence[Exported]) -> list[Exported]:
    """Move bundles with their measurements out of the working folder, all or none.

    Returns:
        The bundles with their new paths.

    Raises:
        UsageError: `bundle-exists`; nothing was moved.
    """
    for exported in packed if not request.overwrite else ():
        path = request.output / exported.path.name
        found = _opened(path)
        if found and found.manifest_sha256 != Bundle.open(exported.path).manifest_sha256:
            raise UsageError("bundle-exists", f"{path} has another digest than the bundle that was made now", _HINT)
    return [_move(exported, request.output) for exported in packed]


def _move(exported: Exported, folder: Path) -> Exported:
    path = folder / exported.path.name
    beside = exported.path.with_name(f"{exported.manifest.stem}{card.MEASUREMENTS_SUFFIX}")
    beside.write_bytes(card.encode_measurements(exported.measurements))
    beside.replace(path.with_name(beside.name))
    exported.path.replace(path)
    return replace(exported, path=path)


def _opened(path: Path) -> Bundle | None:
    """Open the bundle that lies there; None where nothing lies.

    Raises:
        UsageError: `bundle-exists`, when another thing lies there.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        return Bundle.open(path)
    except EdgemlError as error:
        raise UsageError("bundle-exists", f"{path} exists and is no whole bundle: {error.message}", _HINT) from error
