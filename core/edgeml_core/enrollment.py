"""Enrollment by a token, and renewal of certificates: the token, the messages and their bounds, for host and device.

A token holds a secret that works once, and the digest of the authority of the fleet's servers: with it a device that
knows nothing yet recognizes its host. Keys, sockets and the time are left to the callers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from typing import Final, TypeVar

import msgspec

from edgeml_core import decoding
from edgeml_core.errors import RejectedError, UsageError

#: Begins the text of a token, so that scanners for leaked secrets can find it.
TOKEN_PREFIX: Final = "edgeml_"  # noqa: S105 - no secret
#: Bytes of a token's secret; nobody guesses 128 bits.
SECRET_BYTES: Final = 16
#: Bytes of a SHA-256 digest.
_DIGEST_BYTES: Final = 32
#: Bytes of a request: a certificate request has about 400, a certificate about 900.
REQUEST_MAX_BYTES: Final = 16 * 1024
#: Bytes of the host's answer: two trust anchors, a few keys and certificates.
ANSWER_MAX_BYTES: Final = 4 * 1024**2
#: The folder of a device has the file of its key and certificate under this name; the host never sends it.
CERTIFICATE_FILE: Final = "device.pem"
#: The certificate in an answer; the device adds its key to it.
ISSUED_FILE: Final = "device.crt"
#: The common name of the authority whose certificates the host renews; a device asks for no others.
CLIENT_AUTHORITY: Final = "edgeml client authority"
AUTHORITY_PATH: Final = "/v1/authority"
ENROLL_PATH: Final = "/v1/enroll"

#: A name, or one folder and a name; neither begins with a dot.
_FILE_NAME: Final = re.compile(r"(?:[a-z0-9][a-z0-9_-]{0,62}/)?[a-z0-9][a-z0-9._-]{0,126}")
_RENEWAL: Final = b"edgeml renewal 1\n"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token, as the operator gives it to a device."""

    secret: bytes
    authority_sha256: bytes

    @property
    def text(self) -> str:
        """The token as it is typed: a prefix, and base64 for URLs."""
        return TOKEN_PREFIX + base64.urlsafe_b64encode(self.secret + self.authority_sha256).decode()

    def __repr__(self) -> str:
        return "Token(...)"


def make_token(authority_der: bytes) -> Token:
    """Make a token with a new secret for hosts whose authority has this certificate."""
    return Token(secret=secrets.token_bytes(SECRET_BYTES), authority_sha256=hashlib.sha256(authority_der).digest())


def parse_token(text: str) -> Token:
    """Parse a token.

    Raises:
        UsageError: `usage`, when the text is no token. The message doesn't repeat it.
    """
    try:
        data = base64.b64decode(text.removeprefix(TOKEN_PREFIX).encode(), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if not text.startswith(TOKEN_PREFIX) or len(data) != SECRET_BYTES + _DIGEST_BYTES:
        hint = "copy the whole token that `edgeml device token` has printed"
        raise UsageError("usage", "the token is incomplete, or no token", hint)
    return Token(secret=data[:SECRET_BYTES], authority_sha256=data[SECRET_BYTES:])


def secret_digest(secret: bytes) -> str:
    """Return the digest under which the host keeps a token; the secret can't be computed from it."""
    return hashlib.sha256(b"edgeml token 1\n" + secret).hexdigest()


def renewal_text(request_der: bytes) -> bytes:
    """Return the bytes that the present key signs to have its successor certified."""
    return _RENEWAL + request_der


class EnrollRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device's request for a place in the fleet: the token's secret, its id, and a certificate request in PEM."""

    secret: bytes
    device: str
    csr: str
    store: str | None = None


class EnrollAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The device's files, by name; only its key is missing."""

    files: dict[str, str]


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for the next certificate: the present one, the request, and the present key's signature of it."""

    certificate: str
    csr: str
    signature: bytes


class RenewAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The next certificate in PEM, or the reason why there is none."""

    certificate: str = ""
    code: str = ""
    message: str = ""


Kind = TypeVar("Kind", EnrollRequest, EnrollAnswer, RenewRequest, RenewAnswer)


def decode(payload: bytes, kind: type[Kind], max_bytes: int = REQUEST_MAX_BYTES) -> Kind:
    """Decode a message of type `kind`.

    Raises:
        RejectedError: `document-format`, when it is too long or malformed.
    """
    if len(payload) > max_bytes:
        raise RejectedError("document-format", f"the {kind.__name__} has {len(payload)} bytes, limit {max_bytes}")
    try:
        return decoding.from_json(payload, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"the {kind.__name__} can't be read: {error}") from error


def check_files(files: dict[str, str]) -> None:
    """Check the names of an answer's files: each stays within the device's folder, and none is its key's.

    Raises:
        RejectedError: `document-format`.
    """
    for name in files:
        if not _FILE_NAME.fullmatch(name) or name == CERTIFICATE_FILE:
            raise RejectedError("document-format", f"the host's answer has a file {name!r}, which no device takes")
    if missing := {ISSUED_FILE, "agent.toml"} - files.keys():
        raise RejectedError("document-format", f"the host's answer has no file {', '.join(sorted(missing))}")
