"""Certificates of devices, hosts, operators and other clients: issued, renewed and revoked, each with its record.

The caller of a function that writes holds the repository's lock. Which rights a client has follows from its role, in
`broker_config`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edgeml.repository import broker_folder, certificates, device_ca
from edgeml.repository.broker_config import DASHBOARD_NAME, HOST_NAME
from edgeml.repository.certificates import ClientRole, Holder, Role
from edgeml.repository.device_ca import BROKER_CA, DEVICE_CA
from edgeml.repository.enrollment_database import Issued
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import enrollment, names
from edgeml_core.enrollment import RenewRequest
from edgeml_core.errors import RejectedError, UsageError
from edgeml_io import files

AUTHORITY_FILE: Final = "broker-ca.pem"
_DEVICE_ROLES: Final = ("device", "relay")
_SECRET_MODE: Final = 0o600


class ClientFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a client that was given a certificate, and the broker's address if it is known."""

    name: str
    role: Role
    certificate: str
    authority: str
    broker: str | None

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def issue(
    repository: RepositoryFolder, name: str, role: Role, public: ec.EllipticCurvePublicKey, now: datetime
) -> x509.Certificate:
    """Issue a certificate, and record it.

    Raises:
        UsageError: `usage`, when the name belongs to a client of another role; `repo-invalid`.
    """
    check_name(repository, name, role)
    made = repository.authorities.devices().issue_client(
        Holder(name=name, role=role, fleet=repository.fleet_name), public, now
    )
    record = Issued(serial=made.serial_number, name=name, role=role, ends_s=made.not_valid_after_utc.timestamp())
    repository.enrollments.add_certificate(record, now.timestamp())
    return made


def issue_with_key(repository: RepositoryFolder, name: str, role: Role, now: datetime) -> bytes:
    """Issue a certificate with a new key; both are in the returned PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return device_ca.key_pem(key) + certificates.pem(issue(repository, name, role, key.public_key(), now))


def check_name(repository: RepositoryFolder, name: str, role: Role) -> None:
    """Refuse a name that belongs to a client of another role: its user would have the rights of both.

    Raises:
        UsageError: `usage`.
    """
    present = {it.role for it in repository.enrollments.certificates(name) if not it.revoked}
    if other := present - ({*_DEVICE_ROLES} if role in _DEVICE_ROLES else {role}):
        message = f"the name {name!r} belongs to a client with the role {', '.join(sorted(other))}"
        raise UsageError("usage", message, "choose another name, or revoke that client's certificate first")


def role_of(repository: RepositoryFolder, device: str) -> Role:
    """Return the role of a device's last certificate, also a revoked one: a relay stays one."""
    known = [it.role for it in repository.enrollments.certificates(device)]
    return known[-1] if known else "device"


def is_denied(repository: RepositoryFolder, name: str) -> bool:
    """Return whether brokers deny a name everything: it had certificates, and all are revoked."""
    known = repository.enrollments.certificates(name)
    return bool(known) and all(it.revoked for it in known)


def write_client(
    repository: RepositoryFolder, name: str, role: ClientRole, out_dir: Path, now: datetime
) -> ClientFiles:
    """Write a key, its certificate and the broker's authority for a client that is no device.

    The broker's configuration gets a block for the client; a broker that runs needs SIGHUP to read it.

    Raises:
        UsageError: `usage`, when the name is a device's, malformed, or `out_dir` can't be written; `repo-invalid`.
    """
    names.require_name(name, "client")
    if name in (HOST_NAME, DASHBOARD_NAME, "echo") or repository.has_device(name):
        raise UsageError("usage", f"the name {name!r} belongs to the host or to a device", "choose another name")
    written = issue_with_key(repository, name, role, now)
    certificate, authority = out_dir / f"{name}.pem", out_dir / AUTHORITY_FILE
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        files.write(authority, repository.authorities.path(BROKER_CA).read_bytes())
        files.write(certificate, written, mode=_SECRET_MODE)
    except OSError as error:
        raise UsageError("usage", f"{out_dir} can't be written", "name a folder that you may write to") from error
    refresh_brokers(repository, now)
    broker = repository.enrollments.address("broker")
    return ClientFiles(name=name, role=role, certificate=str(certificate), authority=str(authority), broker=broker)


def own_certificate(repository: RepositoryFolder, name: str, role: Role, now: datetime) -> Path:
    """Return the file of a certificate of the repository's own; it is issued when due.

    The function takes the repository's lock itself.

    Raises:
        UsageError: `repo-invalid`.
    """
    path = repository.keys.folder / f"{name}.pem"
    if not _is_due(path, repository, now):
        return path
    with repository.locked():
        files.write(path, issue_with_key(repository, name, role, now), mode=_SECRET_MODE)
        if role != "host":
            refresh_brokers(repository, now)
    return path


def renew(repository: RepositoryFolder, device: str, payload: bytes, now: datetime) -> bytes:
    """Issue the next certificate of a device, in PEM, to the holder of its present key.

    The function takes the repository's lock itself.

    Args:
        repository: opened, with the authority's key.
        device: the id in the request's topic, which the broker's rights bind to the user.
        payload: the request.
        now: the time to sign at.

    Raises:
        RejectedError: `document-format`; `certificate-invalid`, when the present certificate isn't this fleet's and
            this device's, has expired, or half of its time isn't over; `certificate-revoked`.
        UsageError: `repo-invalid`.
    """
    request = enrollment.decode(payload, RenewRequest)
    public = certificates.requested_key(request.csr)
    present = _presented(repository, device, request, now)
    with repository.locked():
        known = repository.enrollments.certificate(present.serial_number)
        if known is None or known.revoked:
            message = f"the certificate of {device!r} was revoked, or this repository has no record of it"
            raise RejectedError("certificate-revoked", message, "enroll the device again, with a token")
        return certificates.pem(issue(repository, device, known.role, public, now))


def revoke_certificate(repository: RepositoryFolder, name: str, now: datetime, *, ends_again: bool = False) -> None:
    """Revoke all certificates of a name, and its tokens; a running `fleet serve` ends its connection.

    A broker that reads the repository's list refuses the name's next connection at once.

    Args:
        repository: the caller holds its lock.
        name: of a device or another client.
        now: the time to sign at.
        ends_again: the service ends the connection also if it has done so: a broker whose folder failed took it again.
            Not for a name that gets another certificate at once: its new connection would end.

    Raises:
        UsageError: `repo-invalid`, when the authority's key is missing or locked; no certificate is revoked then.
    """
    repository.enrollments.forget_tokens(name)
    if not repository.enrollments.certificates(name):
        return
    repository.authorities.devices()
    repository.audit.append("revoke-certificate", name, {}, now=now)
    repository.authorities.revoke(repository.enrollments.revoke(name, ends_again=ends_again), now)
    refresh_brokers(repository, now)


def refresh_brokers(repository: RepositoryFolder, now: datetime) -> None:
    """Write the configuration of all known brokers again.

    Raises:
        UsageError: `repo-invalid`, when a folder can't be written. The others are.
    """
    if failed := broker_folder.refresh(repository, now):
        hint = "make the folder writable, run `edgeml fleet broker-config` for it, then repeat the command"
        raise UsageError("repo-invalid", f"a broker's configuration can't be written: {'; '.join(failed)}", hint)


def _presented(repository: RepositoryFolder, device: str, request: RenewRequest, now: datetime) -> x509.Certificate:
    """Return the present certificate of a request that its key has signed."""

    def refused(problem: str) -> RejectedError:
        message = f"the present certificate of {device!r} {problem}"
        return RejectedError("certificate-invalid", message, "enroll the device again, with a token")

    try:
        present = x509.load_pem_x509_certificate(request.certificate.encode())
        present.verify_directly_issued_by(repository.authorities.certificate(DEVICE_CA))
        key, asked = present.public_key(), x509.load_pem_x509_csr(request.csr.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise refused("has another kind of key")
        signed = enrollment.renewal_text(asked.public_bytes(Encoding.DER))
        key.verify(request.signature, signed, ec.ECDSA(hashes.SHA256()))
    except certificates.UNREADABLE as error:
        raise refused("isn't this fleet's, or its key hasn't signed the request") from error
    if certificates.name_of(present) != device:
        raise refused("is another device's")
    if now > present.not_valid_after_utc:
        raise refused(f"has expired on {present.not_valid_after_utc:%Y-%m-%d}")
    if not certificates.is_past_half(present, now):
        raise refused("isn't due: half of its time isn't over")
    return present


def _is_due(path: Path, repository: RepositoryFolder, now: datetime) -> bool:
    try:
        present = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return True
    known = repository.enrollments.certificate(present.serial_number)
    return known is None or known.revoked or certificates.is_past_half(present, now)
