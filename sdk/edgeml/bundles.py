"""Bundle files on the host's disk: opened and described. Their format is `edgeml_core.bundle`'s."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeml_core.bundle import BundleReader
from edgeml_core.card import MEASUREMENTS_SUFFIX, Accuracy, Measurements, TargetVerification, Verified
from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A bundle's manifest, identity and size, and its measurements where they lie beside it."""

    manifest: Manifest
    manifest_sha256: str
    size_bytes: int
    measurements: Measurements | None

    @property
    def verifications(self) -> tuple[TargetVerification, ...]:
        """The verification on each CPU: the exporting machine's first, then those of the card."""
        card, measured = self.manifest.card, self.measurements
        known = {it.cpu for it in card.verified}
        others = [it for it in (measured.verified_on if measured else ()) if it.cpu not in known]
        return (*(_verification(it, card.accuracy) for it in others), *card.verified)


def _verification(it: Verified, accuracy: Accuracy | None) -> TargetVerification:
    """Add the card's accuracy, which was measured where its golden outputs were recorded."""
    note = it.note or ("" if it.ok else "golden outputs not reproduced")
    return TargetVerification(cpu=it.cpu, how=it.how, accuracy=accuracy if it.how == "measured" else None, note=note)


@contextmanager
def opened(path: Path) -> Iterator[BundleReader]:
    """A bundle file opened for reading.

    Raises:
        UsageError: `usage`, when there is no such file. RejectedError: it is not a bundle.
    """
    try:
        source = path.open("rb")
    except OSError as error:
        raise UsageError("usage", f"{path} can't be read", "name a .edgeml file") from error
    with source:
        yield BundleReader(source)


def inspect(path: Path) -> Inspected:
    """What a bundle says of itself, and what was measured of it.

    Raises:
        UsageError: no such file. RejectedError: it is malformed, or its measurements are another bundle's.
    """
    with opened(path) as reader:
        return Inspected(
            manifest=reader.manifest,
            manifest_sha256=reader.manifest_sha256,
            size_bytes=path.stat().st_size,
            measurements=measurements(path, reader.manifest_sha256),
        )


def measurements(bundle: Path, manifest_sha256: str) -> Measurements | None:
    """The measurements beside a bundle; None where there are none.

    Raises:
        RejectedError: `document-format` when they are malformed, `digest-mismatch` when they are another bundle's.
    """
    path = bundle.with_name(bundle.stem + MEASUREMENTS_SUFFIX)
    if not path.is_file():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Measurements)
    except msgspec.MsgspecError as error:
        raise RejectedError("document-format", f"{path} can't be read: {error}", "export the model again") from error
    if found.manifest_sha256 != manifest_sha256:
        raise RejectedError("digest-mismatch", f"{path} was measured of another bundle", "export the model again")
    return found
