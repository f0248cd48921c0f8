"""The rules of the two TUF repositories that host and device share, and TUF's errors in edgeml's terms.

`releases` lists the bundles (root and targets keys offline), `fleet` the deployments (online key). python-tuf makes and
verifies the metadata, by its own rules. Source: TUF specification 1.0, and Uptane for the split. Delegations are
deliberately absent, since python-tuf doesn't verify a cached delegated role again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from tuf.api import exceptions as tuf
from tuf.api.metadata import Signed, TargetFile

from edgeml_core import decoding
from edgeml_core.errors import EdgemlError, RejectedError, TransportError

RELEASES: Final = "releases"
FLEET: Final = "fleet"
REPOSITORIES: Final = (RELEASES, FLEET)

METADATA_DIR: Final = "metadata"
TARGETS_DIR: Final = "targets"
#: The file that changes last with every change: a reader that sees it finds all others in place.
TIMESTAMP_FILE: Final = f"{METADATA_DIR}/timestamp.json"
#: The name, over MQTT, of a copy of the root with the highest number.
NEWEST_ROOT_FILE: Final = f"{METADATA_DIR}/root.json"
#: Bytes of a metadata file; python-tuf's own bounds per role are lower or equal.
METADATA_MAX_BYTES: Final = 5 * 1024 * 1024
#: New roots that a device follows in one refresh.
ROOT_ROTATIONS_MAX: Final = 64

#: Lifetimes. Offline roles live long; `edgeml fleet serve` or `repo refresh` renews online ones.
EXPIRY: Final[dict[str, timedelta]] = {
    "root": timedelta(days=3650),
    "targets": timedelta(days=365),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=30),
}

MANIFEST_SUFFIX: Final = ".json"
GROUP_SUFFIX: Final = ".group"

#: Fields of all metadata: when it was signed, and for which repository.
_ISSUED: Final = "issued"
_REPOSITORY: Final = "repository"
#: Field of a manifest's signed description: no device installs that release any more.
_WITHDRAWN: Final = "withdrawn"
_CUSTOM: Final = "custom"
_ISSUED_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
#: A time before all others.
NO_TIME: Final = datetime.min.replace(tzinfo=UTC)


class _Signed(msgspec.Struct):
    repository: str = ""
    version: int = 0


class _Metadata(msgspec.Struct):
    signed: _Signed


def stamp(signed: Signed, now: datetime, repo: str) -> None:
    """Write into metadata when it was signed, and for which repository."""
    signed.unrecognized_fields[_ISSUED] = now.astimezone(UTC).strftime(_ISSUED_FORMAT)
    signed.unrecognized_fields[_REPOSITORY] = repo


def issued(signed: Signed) -> datetime:
    """Return when metadata was signed; `NO_TIME` if it has no such field."""
    try:
        return datetime.strptime(str(signed.unrecognized_fields[_ISSUED]), _ISSUED_FORMAT).replace(tzinfo=UTC)
    except (KeyError, ValueError):
        return NO_TIME


def unverified_version(metadata: bytes) -> int:
    """Return the version that unverified metadata claims; 0 when it can't be read."""
    try:
        return decoding.from_json(metadata, _Metadata).signed.version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0


def check_repository(metadata: bytes, repo: str) -> None:
    """Check that metadata was signed for this repository, since one key may sign for both.

    Unreadable metadata, and metadata without the field, is left to python-tuf and the signatures.

    Raises:
        RejectedError: `signature-invalid`.
    """
    try:
        signed_for = decoding.from_json(metadata, _Metadata).signed.repository
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if signed_for not in ("", repo):
        raise RejectedError("signature-invalid", f"metadata signed for {signed_for!r} was offered as that of {repo!r}")


def manifest_target(stem: str) -> str:
    """Return the target path of a bundle's manifest in the releases repository."""
    return f"{stem}{MANIFEST_SUFFIX}"


def measurements_target(stem: str) -> str:
    """Return the target path of a bundle's measurements in the releases repository."""
    return f"{stem}.measured.json"


def group_target(stem: str) -> str:
    """Return the target path, in the releases repository, of the group that a release is encrypted for."""
    return f"{stem}{GROUP_SUFFIX}"


def set_withdrawn(manifest: TargetFile, *, withdrawn: bool) -> None:
    """Write into a manifest's description whether its release is withdrawn; the release key signs it."""
    custom = {key: value for key, value in _custom(manifest).items() if key != _WITHDRAWN}
    manifest.unrecognized_fields[_CUSTOM] = {**custom, _WITHDRAWN: True} if withdrawn else custom


def is_withdrawn(manifest: TargetFile) -> bool:
    """Return whether a manifest's release is withdrawn. An unknown value counts as true."""
    return bool(_custom(manifest).get(_WITHDRAWN))


def withdrawn_error(stem: str) -> RejectedError:
    """Return the error of a device that a deployment asks to install a withdrawn release."""
    return RejectedError("release-withdrawn", f"{stem} is withdrawn by the release key", "deploy another version")


def _custom(target: TargetFile) -> dict[str, object]:
    custom = target.custom
    return custom if isinstance(custom, dict) else {}


def translate(error: Exception, repo: str) -> EdgemlError:
    """Translate python-tuf's error into edgeml's, by who must act."""
    match error:
        case tuf.BadVersionNumberError() | tuf.EqualVersionNumberError():
            return RejectedError("rollback-attempt", f"older {repo} metadata was offered: {error}")
        case tuf.ExpiredMetadataError():
            hint = "run `edgeml repo refresh` on the host, and check this device's clock"
            return RejectedError("trust-expired", f"the {repo} metadata has expired: {error}", hint)
        case tuf.UnsignedMetadataError():
            hint = "if the keys were changed on purpose, enroll the device again"
            return RejectedError(
                "signature-invalid", f"the {repo} metadata is not signed by a trusted key: {error}", hint
            )
        case tuf.LengthOrHashMismatchError() | tuf.DownloadLengthMismatchError():
            return RejectedError("digest-mismatch", f"a {repo} file has other content than was signed: {error}")
        case tuf.RepositoryError():
            return RejectedError("document-format", f"the {repo} metadata is malformed: {error}")
        case _:
            return TransportError("trust-unavailable", f"the {repo} metadata can't be fetched: {error}")
