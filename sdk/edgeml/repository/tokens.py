"""Tokens with which devices enroll themselves: each works once, until it expires, for the labels that it was made with.

The repository keeps digests alone. `redeem` enrolls the device of a request and returns its files; the connection is
left to `edgeml.fleet.enrollment`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgeml.repository import certificates, client_certificates, device_folder, devices
from edgeml.repository.device_ca import BROKER_CA
from edgeml.repository.device_folder import DeviceFiles
from edgeml.repository.enrollment_database import StoredToken
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import enrollment, names
from edgeml_core.enrollment import EnrollAnswer, EnrollRequest
from edgeml_core.errors import RejectedError, UsageError

#: Tokens of one command; a larger site repeats it.
COUNT_MAX: Final = 10_000
#: A token that isn't used within a year is forgotten, and so is its leak.
LIFE_MAX: Final = timedelta(days=366)
#: An expired token is kept as long, so that its late user learns the reason.
KEPT: Final = timedelta(days=90)
#: Unless the operator names another.
LIFE_DEFAULT: Final = timedelta(days=7)
_HINT: Final = "ask the fleet's operator for another one: `edgeml device token`"


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """New tokens, the time of their end, and the address at which they work if a host has served one."""

    tokens: tuple[str, ...]
    expires: datetime
    url: str | None

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def make(
    repository: RepositoryFolder,
    *,
    now: datetime,
    labels: Mapping[str, str],
    groups: Sequence[str] = (),
    device: str = "",
    count: int = 1,
    life: timedelta = LIFE_DEFAULT,
) -> Tokens:
    """Make tokens; the caller holds the repository's lock.

    Args:
        repository: opened.
        now: the time from which they count.
        labels: signed for each device that enrolls.
        groups: the devices get their keys.
        device: the only id that may enroll with it, also when it is enrolled already; empty lets the device choose.
        count: their number.
        life: until they expire.

    Raises:
        UsageError: `usage`, for a bad number, time or name; `repo-invalid`.
    """
    if not 1 <= count <= COUNT_MAX:
        raise UsageError("usage", f"{count} tokens", f"ask for 1 to {COUNT_MAX}")
    if not timedelta() < life <= LIFE_MAX:
        raise UsageError("usage", f"tokens that expire after {life}", f"use at most {LIFE_MAX.days} days")
    if device and (count != 1 or labels):
        message = f"a token for the device {device!r} alone takes no labels, and there is one of it"
        raise UsageError("usage", message, "leave out --label and --count")
    for name in (*groups, *filter(None, [device])):
        names.require_name(name, "device or group")
    authority = repository.authorities.certificate(BROKER_CA).public_bytes(Encoding.DER)
    made = [enrollment.make_token(authority) for _ in range(count)]
    expires = now + life
    stored = [
        StoredToken(
            digest=enrollment.secret_digest(it.secret),
            labels=dict(labels),
            groups=tuple(groups),
            device=device,
            expires_s=expires.timestamp(),
        )
        for it in made
    ]
    repository.enrollments.add_tokens(stored, (now - KEPT).timestamp())
    url = repository.enrollments.address("enroll")
    return Tokens(tokens=tuple(it.text for it in made), expires=expires, url=url)


def redeem(repository: RepositoryFolder, request: EnrollRequest, broker_url: str, now: datetime) -> EnrollAnswer:
    """Enroll the device of a request; the function takes the repository's lock itself.

    The key that used a token may use it again until it expires: an answer may be lost on its way.

    Args:
        repository: opened, with the keys that sign devices and certificates.
        request: with the token's secret.
        broker_url: the broker's address, for the device's configuration.
        now: the time to sign at.

    Raises:
        RejectedError: `token-unknown`, `token-expired`, `token-used`, `document-format`.
        UsageError: `usage`, for an id that no device may have; `device-exists`; `repo-invalid`.
    """
    digest = enrollment.secret_digest(request.secret)
    if repository.enrollments.token(digest) is None:
        raise _unknown()  # a stranger without a token gets no signature checked, and no lock
    public = certificates.requested_key(request.csr)
    key = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    with repository.locked():
        token = _usable(repository.enrollments.token(digest), request, key, now)
        devices.check_id(request.device)
        client_certificates.check_name(repository, request.device, "device")
        contents = device_folder.read(broker_url, DeviceFiles(store=request.store))
        if repository.has_device(request.device) and token.device != request.device and not token.used_by:
            hint = "choose another id with --id, or ask for a token of this device: `edgeml device token --device ID`"
            raise UsageError("device-exists", f"device {request.device!r} is enrolled already", hint)
        if not token.used_by:
            repository.audit.append("use-token", request.device, {"token": digest, "key": key}, now=now)
        # On the disk before anything is signed: a crash may cost a token, and never gives one device too many.
        repository.enrollments.use_token(digest, request.device, key)
        record = devices.admit(repository, request.device, token.labels, token.groups, now)
        role = client_certificates.role_of(repository, request.device)
        was_denied = client_certificates.is_denied(repository, request.device)
        certificate = client_certificates.issue(repository, request.device, role, public, now)
        if was_denied:
            client_certificates.refresh_brokers(repository, now)
        files = device_folder.files(repository, request.device, broker_url, contents, record)
    files[enrollment.ISSUED_FILE] = certificates.pem(certificate)
    return EnrollAnswer(files={name: content.decode() for name, content in files.items()})


def _usable(token: StoredToken | None, request: EnrollRequest, key: str, now: datetime) -> StoredToken:
    if token is None:
        raise _unknown()
    if now.timestamp() >= token.expires_s:
        raise RejectedError("token-expired", f"the token has expired at {_time(token.expires_s, now)}", _HINT)
    if token.used_by and (token.used_by, token.used_key) != (request.device, key):
        raise RejectedError("token-used", f"the token was used by device {token.used_by!r}", _HINT)
    if token.device not in ("", request.device):
        message = f"the token is for device {token.device!r}, not for {request.device!r}"
        raise RejectedError("token-unknown", message, "name that device with --id")
    return token


def _unknown() -> RejectedError:
    return RejectedError("token-unknown", "no host of this fleet has made this token, or it was revoked", _HINT)


def _time(seconds: float, now: datetime) -> str:
    return f"{datetime.fromtimestamp(seconds, now.tzinfo):%Y-%m-%d %H:%M} UTC"
