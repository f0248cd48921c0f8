"""What host and device agree on about the two TUF repositories, and how TUF's errors read here.

`releases` says which bundles exist (root and targets keys offline); `fleet` says which device should run what (online
key). python-tuf makes and judges the metadata; the rules are its own. Source: TUF specification 1.0, and Uptane for
the split. Deliberately absent: delegations (python-tuf doesn't re-check a cached delegated role).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from tuf.api import exceptions as tuf
from tuf.api.metadata import Signed

from edgeml_core.errors import EdgemlError, RejectedError, TransportError

RELEASES: Final = "releases"
FLEET: Final = "fleet"
REPOSITORIES: Final = (RELEASES, FLEET)

METADATA_DIR: Final = "metadata"
TARGETS_DIR: Final = "targets"
#: One file of metadata as a device accepts it; python-tuf's own bounds per role are lower or equal.
METADATA_MAX_BYTES: Final = 5 * 1024 * 1024
#: How many new roots a device follows in one refresh.
ROOT_ROTATIONS_MAX: Final = 64

#: Offline roles live long; online ones are refreshed by whoever runs `edgeml fleet serve` or `repo refresh`.
EXPIRY: Final[dict[str, timedelta]] = {
    "root": timedelta(days=3650),
    "targets": timedelta(days=365),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=30),
}

GROUP_SUFFIX: Final = ".group"

#: The fields of all metadata in which its signer says when it signed, and for which repository.
_ISSUED: Final = "issued"
_REPOSITORY: Final = "repository"
_ISSUED_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
#: Before all times.
NO_TIME: Final = datetime.min.replace(tzinfo=UTC)


class _Signed(msgspec.Struct):
    repository: str = ""


class _Metadata(msgspec.Struct):
    signed: _Signed


def stamp(signed: Signed, now: datetime, repo: str) -> None:
    """Note in metadata when it was signed, and for which repository."""
    signed.unrecognized_fields[_ISSUED] = now.astimezone(UTC).strftime(_ISSUED_FORMAT)
    signed.unrecognized_fields[_REPOSITORY] = repo


def issued(signed: Signed) -> datetime:
    """When metadata was signed; `NO_TIME` where it doesn't say."""
    try:
        return datetime.strptime(str(signed.unrecognized_fields[_ISSUED]), _ISSUED_FORMAT).replace(tzinfo=UTC)
    except (KeyError, ValueError):
        return NO_TIME


def check_repository(metadata: bytes, repo: str) -> None:
    """Hold metadata to the repository that it was signed for, since one key may sign for both.

    What can't be read or doesn't say is left to python-tuf and the signatures.

    Raises:
        RejectedError: `signature-invalid`.
    """
    try:
        signed_for = msgspec.json.decode(metadata, type=_Metadata).signed.repository
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if signed_for not in ("", repo):
        raise RejectedError("signature-invalid", f"metadata signed for {signed_for!r} was offered as that of {repo!r}")


def manifest_target(stem: str) -> str:
    """The target path, in the releases repository, of a bundle's manifest."""
    return f"{stem}.json"


def measurements_target(stem: str) -> str:
    """The target path, in the releases repository, of a bundle's measurements."""
    return f"{stem}.measured.json"


def group_target(stem: str) -> str:
    """The target path, in the releases repository, of the name of the group that a release is encrypted for."""
    return f"{stem}{GROUP_SUFFIX}"


def translate(error: Exception, repo: str) -> EdgemlError:
    """python-tuf's error as one of ours: who must act decides the family."""
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
            return TransportError("trust-unavailable", f"the {repo} metadata can't be had: {error}")
