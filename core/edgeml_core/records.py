"""Device records: the id, labels and groups of one device, signed by the fleet's keys.

The fleet document has rules alone, so its size doesn't depend on the number of devices. A device applies the rules to
the labels in its own record. A record has a version: a device refuses an older one than it has seen, so that nobody can
take back a new label or a revocation. The keys are those that the fleet repository's root names for its targets.

A record is no TUF target, since 100,000 targets would make metadata of many megabytes, which every device reads. Its
signature is python-tuf's: over canonical JSON, with the threshold of the root. Its type is in the signed bytes, so no
record can be taken for metadata, and no metadata for a record.

In a repository's folder, and on a stick, records lie in files of one record a line, by the hash of the device's id.
Files and topics are left to the callers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Final

import msgspec
import zstandard
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signature
from tuf.api import exceptions as tuf
from tuf.api.metadata import Root, Targets

from edgeml_core import decoding, names
from edgeml_core.errors import RejectedError

#: Bytes of a signed record. Three labels and one signature take 450; 40 labels of the longest kind fit.
RECORD_MAX_BYTES: Final = 8 * 1024
#: A device's own record, beside its trust anchors and in its store.
RECORD_FILE: Final = "record.json"
#: Folder of the records in a repository.
RECORDS_DIR: Final = "devices"
#: Hexadecimal digits of the hash that choose a record's file: 256 files, of 180 kB each for 100,000 devices.
_FILE_DIGITS: Final = 2
_FILE_SUFFIX: Final = ".jsonl"
#: Bytes of one such file: those of a million devices take 2 MB.
RECORDS_FILE_MAX_BYTES: Final = 8 * 1024 * 1024
#: Devices of a site whose records travel together, for its relay.
SITE_DEVICES_MAX: Final = 4096
#: Bytes of a site's records, unpacked; twice those of `SITE_DEVICES_MAX` usual ones.
SITE_MAX_BYTES: Final = 4 * 1024 * 1024
#: The type in each record: no other signed document has it.
_TYPE: Final = "edgeml-device"
_ZSTD_LEVEL: Final = 9

Version = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]


class DeviceRecord(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="_type",
    tag=_TYPE,
):
    """One device of a fleet. Its labels are signed: a device can't claim others.

    `groups` are those whose keys it was given when it was enrolled. A revoked device gets nothing new. The host signs
    the record again before it expires, so a newer one can't be held back from a device for good.
    """

    fleet: str
    device: str
    version: Version
    labels: dict[str, str]
    groups: tuple[str, ...] = ()
    revoked: bool = False
    expires: Annotated[datetime, msgspec.Meta(tz=True)]


class KeySignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signature of one key, in hex."""

    keyid: str
    sig: str


class SignedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record with signatures, which `verified` checks."""

    signed: DeviceRecord
    signatures: tuple[KeySignature, ...]


def payload(record: DeviceRecord) -> bytes:
    """Return the bytes that are signed: canonical JSON."""
    text = encode_canonical(msgspec.to_builtins(record))
    assert text is not None  # noqa: S101 - it is None only where the caller gives an output function
    return text.encode()


def encode(record: SignedRecord) -> bytes:
    """Encode a signed record as one line; equal records give equal bytes."""
    return msgspec.json.encode(record, order="deterministic")


def decode(data: bytes) -> SignedRecord:
    """Decode a record, without a look at its signatures.

    Raises:
        RejectedError: `document-format`, when it is too long, malformed or has an invalid name.
    """
    if len(data) > RECORD_MAX_BYTES:
        raise RejectedError("document-format", f"a device's record has {len(data)} bytes, limit {RECORD_MAX_BYTES}")
    try:
        record = decoding.from_json(data, SignedRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"a device's record can't be read: {error}") from error
    if not names.is_name(record.signed.device) or not all(map(names.is_name, record.signed.groups)):
        raise RejectedError("document-format", "a device's record has an invalid name")
    return record


def verified(data: bytes, root: Root, *, fleet: str, device: str | None = None) -> DeviceRecord:
    """Return a record that the keys of the fleet have signed.

    Args:
        data: the encoded record.
        root: the fleet repository's root, which is trusted.
        fleet: the fleet that it must be of.
        device: the device that it must be of; None takes any.

    Raises:
        RejectedError: `document-format`; `signature-invalid`, when too few trusted keys have signed it, or when it is
            of another fleet or device.
    """
    found = decode(data)
    record = found.signed
    signatures = {it.keyid: Signature(it.keyid, it.sig) for it in found.signatures}
    try:
        root.verify_delegate(Targets.type, payload(record), signatures)
    except tuf.UnsignedMetadataError as error:
        hint = "if the keys were changed on purpose, start `edgeml fleet serve`, which announces the new signatures"
        raise RejectedError(
            "signature-invalid", f"the record of {record.device} isn't signed by trusted keys: {error}", hint
        ) from error
    if record.fleet != fleet or record.device != (device or record.device):
        message = (
            f"the record of {record.device} in fleet {record.fleet} was offered as that of {device or 'any device'} "
            f"in fleet {fleet}"
        )
        raise RejectedError("signature-invalid", message)
    return record


def check_usable(record: DeviceRecord, now: datetime) -> None:
    """Check that a record neither revokes its device nor has expired.

    Raises:
        RejectedError: `device-revoked`; `trust-expired`.
    """
    if record.revoked:
        hint = "make a folder for its successor with `edgeml device replace`"
        message = f"the fleet has revoked {record.device}: it serves what it has, and gets nothing new"
        raise RejectedError("device-revoked", message, hint)
    if record.expires < now:
        hint = "start `edgeml fleet serve`, which signs it again, and check this device's clock"
        message = f"the record of {record.device} expired at {record.expires:%Y-%m-%d %H:%M} UTC"
        raise RejectedError("trust-expired", message, hint)


def file_of(device: str) -> str:
    """Return the name of the file that has a device's record, in a folder of records."""
    return hashlib.sha256(device.encode()).hexdigest()[:_FILE_DIGITS] + _FILE_SUFFIX


def file_names() -> list[str]:
    """Return the names of all files that a folder of records may have."""
    return [f"{number:0{_FILE_DIGITS}x}{_FILE_SUFFIX}" for number in range(16**_FILE_DIGITS)]


def lines(data: bytes) -> Iterator[bytes]:
    """Return the encoded records in a file."""
    return (line for line in data.split(b"\n") if line)


def find(data: bytes, device: str) -> bytes | None:
    """Find the encoded record of a device in a file; None if it has none. Malformed lines of others are no concern."""
    mark = b'"device":"%b"' % device.encode()
    for line in lines(data):
        if mark in line and decode(line).signed.device == device:
            return line
    return None


def pack_site(encoded: Iterable[bytes]) -> bytes:
    """Pack the records of a site's devices into one message, for the site's relay."""
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"\n".join(encoded))


def unpack_site(packed: bytes) -> list[bytes]:
    """Unpack the encoded records in a site's message; none is verified yet.

    Raises:
        RejectedError: `document-format`, when it is too long or malformed.
    """
    try:
        # The size in the frame's header is not trusted with an allocation.
        if zstandard.frame_content_size(packed) > SITE_MAX_BYTES:
            raise RejectedError("document-format", f"a site's records unpack to more than {SITE_MAX_BYTES} bytes")
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=SITE_MAX_BYTES)
    except zstandard.ZstdError as error:
        raise RejectedError("document-format", f"a site's records can't be read: {error}") from error
    return list(lines(data))
