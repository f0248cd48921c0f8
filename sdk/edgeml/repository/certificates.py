"""X.509 certificates of a fleet: authorities, certificates that they issue, and lists of revoked ones. Values only.

A certificate's common name is the user's name at the broker. Files, and records of issued certificates, are left to
`device_ca` and `enrollment_database`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeml_core.enrollment import CLIENT_AUTHORITY
from edgeml_core.errors import RejectedError, UsageError

#: The kind of a certificate's holder at the broker; `broker_config` gives each its rights.
Role = Literal["device", "relay", "host", "operator", "client", "homeassistant"]
#: The roles of clients that are neither devices nor the host.
ClientRole = Literal["operator", "client", "homeassistant"]
Usage = Literal["client", "server"]
#: Days; a board without a technician outlives most certificates, and a new authority means enrolling again.
AUTHORITY_DAYS: Final = 9125
#: Days; a device renews after half of them, so one that was off for half a year still connects.
CLIENT_DAYS: Final = 365
#: Days; the longest time that clients of several makers accept.
SERVER_DAYS: Final = 825
#: The clocks of host and broker may differ by as much.
BACKDATED: Final = timedelta(hours=1)
#: Lists of revoked certificates are ordered by their time, in steps of a second: a day leaves room for a burst of them.
LIST_BACKDATED: Final = timedelta(days=1)
#: Names of the broker's own computer, beside those by which devices reach it.
LOCAL_NAMES: Final = ("localhost", "127.0.0.1")

#: The errors of reading a certificate or request that a stranger may have made, and of its signature.
UNREADABLE: Final = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion)
#: A common name has at most 64 characters.
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,63}")
_AUTHORITY_NAMES: Final = {"client": CLIENT_AUTHORITY, "server": "edgeml server authority"}
_EXTENDED_USAGE: Final = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A client's name, what it is, and the fleet that it belongs to."""

    name: str
    role: Role
    fleet: str


@dataclass(frozen=True, kw_only=True)
class Authority:
    """An authority's certificate, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue_client(
        self, holder: Holder, public: ec.EllipticCurvePublicKey, now: datetime, days: int = CLIENT_DAYS
    ) -> x509.Certificate:
        """Issue a client's certificate."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, holder.fleet),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, holder.role),
                x509.NameAttribute(NameOID.COMMON_NAME, holder.name),
            ]
        )
        return self._signed(self._leaf(subject, public, "client", now, days))

    def issue_server(self, names: Sequence[str], public: ec.EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
        """Issue a server's certificate for host names and addresses; the first one is also its common name."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([_general_name(it) for it in dict.fromkeys((*names, *LOCAL_NAMES))])
        builder = self._leaf(subject, public, "server", now, SERVER_DAYS)
        return self._signed(builder.add_extension(alternatives, critical=False))

    def revocation_list(
        self, serials: Iterable[int], now: datetime, before: x509.CertificateRevocationList | None
    ) -> x509.CertificateRevocationList:
        """Sign the list of revoked certificates that follows `before`.

        OpenSSL takes the newest of several valid lists, so each is at least a second newer than the one before.
        By a list from the future it refuses all clients: after one that a host whose clock was ahead has signed, the
        next list has the time of the clock again.
        """
        since, number = now - LIST_BACKDATED, 1
        if before is not None:
            next_since = before.last_update_utc + timedelta(seconds=1)
            since = max(since, next_since) if next_since <= now else since
            number = before.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self.certificate.subject, last_update=since, next_update=self.certificate.not_valid_after_utc
        )
        for serial in sorted(serials):
            revoked = x509.RevokedCertificateBuilder(serial, now)
            builder = builder.add_revoked_certificate(revoked.build())
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return builder.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256())

    def _leaf(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, usage: Usage, now: datetime, days: int
    ) -> x509.CertificateBuilder:
        serial, ends = x509.random_serial_number(), now + timedelta(days=days)
        builder = x509.CertificateBuilder(
            self.certificate.subject,
            subject,
            public,
            serial,
            now - BACKDATED,
            min(ends, self.certificate.not_valid_after_utc),
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_EXTENDED_USAGE[usage]]), critical=False)
            .add_extension(issuer, critical=False)
        )

    def _signed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())


def make_authority(fleet: str, usage: Usage, now: datetime) -> Authority:
    """Make a fleet's authority for one usage: OpenSSL refuses a certificate for another one, signed by its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY_NAMES[usage]),
        ]
    )
    ends = now + timedelta(days=AUTHORITY_DAYS)
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), now - BACKDATED, ends
    )
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_EXTENDED_USAGE[usage]]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate, key=key)


def requested_key(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a certificate request, whose sender has signed it with that key.

    The request's names and extensions are ignored: the host decides them.

    Raises:
        RejectedError: `document-format`, when the request is malformed, its signature wrong, or its key no P-256 key.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        public = request.public_key()
        is_signed = request.is_signature_valid
    except UNREADABLE as error:
        raise RejectedError("document-format", f"the certificate request can't be read: {error}") from error
    if not is_signed or not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise RejectedError("document-format", "the certificate request isn't signed by a P-256 key of its own")
    return public


def name_of(certificate: x509.Certificate) -> str:
    """Return a certificate's common name, which is the user's at the broker; empty if there is none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def is_past_half(certificate: x509.Certificate, now: datetime) -> bool:
    """Return whether half of a certificate's time is over: time to renew it."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now - begins > (ends - begins) / 2


def has_names(certificate: x509.Certificate, names: Sequence[str]) -> bool:
    """Return whether a server's certificate is for these host names and addresses."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return all(_general_name(name) in list(found) for name in names)


def lookup_hash(name: x509.Name) -> str:
    """Return the file name, without suffix, under which OpenSSL looks for an authority's list in a folder.

    It is the hash of the name's canonical form. Only names with the ASCII texts of this module are covered.

    Source: X509_NAME_hash of OpenSSL; a test compares it with the program's `x509 -hash`.
    """
    canonical = b"".join(
        x509.Name([x509.NameAttribute(it.oid, " ".join(str(it.value).lower().split()))]).public_bytes()[2:]
        for it in name
    )
    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def check_host_name(name: str) -> str:
    """Return `name` if a certificate can be issued for it.

    Raises:
        UsageError: `usage`.
    """
    is_address = ":" not in name or _is_address(name)
    if not _HOST_NAME.fullmatch(name) or not is_address:
        message = f"{name!r} is no host name or address"
        raise UsageError("usage", message, "name the host as devices reach it: broker.example or 10.0.0.2")
    return name


def pem(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """Return a certificate or a list in PEM."""
    return certificate.public_bytes(Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    """Return what a key may sign: an authority's certificates and lists, any other key's handshakes."""
    unused = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **unused
    )
