"""The device's own certificate for the broker: the one that agent.toml names, or its successor in the store.

A successor is kept in the store, since the folder of agent.toml may be read-only. Of both the one that ends later
counts, so a folder from a new enrollment replaces it. When to renew, and the messages, are left to `renewal`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edgeml_agent.settings import BrokerSettings
from edgeml_core import enrollment
from edgeml_core.enrollment import RenewRequest
from edgeml_core.errors import DeviceError, RejectedError
from edgeml_io import files

#: The file of a renewed certificate and its key, in the store.
RENEWED_FILE: Final = "certificate.pem"
#: The same until the broker has accepted it.
_UNTRIED_FILE: Final = "certificate-untried.pem"
_SECRET_MODE: Final = 0o600
#: The errors of reading a certificate or key that a stranger may have made.
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class DeviceCertificate:
    """The files of one device's certificate.

    Args:
        settings: the broker's section of agent.toml.
        store: the store's folder.
    """

    def __init__(self, settings: BrokerSettings, store: Path) -> None:
        self._settings = settings
        self._renewed = store / RENEWED_FILE
        self._untried = store / _UNTRIED_FILE

    def settings(self) -> BrokerSettings:
        """Return the broker's section with the files that a new connection uses."""
        return self._with(self._renewed) if self._is_renewed_newer() else self._settings

    def present(self) -> Pair | None:
        """Return the certificate of `settings` and its key; None where there is none that the host renews."""
        found = self.settings()
        pair = None if found.cert is None else _read(found.cert, found.key or found.cert)
        return pair if pair is not None and _is_renewable(pair.certificate) else None

    @staticmethod
    def is_due(certificate: x509.Certificate, now: datetime) -> bool:
        """Return whether half of a certificate's time is over."""
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return now - begins > (ends - begins) / 2

    def request(self, present: Pair) -> tuple[ec.EllipticCurvePrivateKey, RenewRequest]:
        """Make a new key, and the request for its certificate, which the present key signs."""
        key = ec.generate_private_key(ec.SECP256R1())
        asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        signed = enrollment.renewal_text(asked.public_bytes(Encoding.DER))
        signature = present.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        certificate = present.certificate.public_bytes(Encoding.PEM).decode()
        csr = asked.public_bytes(Encoding.PEM).decode()
        return key, RenewRequest(certificate=certificate, csr=csr, signature=signature)

    def check(self, present: Pair, key: ec.EllipticCurvePrivateKey, answered: str) -> BrokerSettings:
        """Check the host's answer, write it beside the present certificate, and return the settings to try it with.

        Raises:
            RejectedError: `certificate-invalid`, when it is for another key or name, or doesn't end later.
            DeviceError: `store-failed`.
        """
        try:
            made = x509.load_pem_x509_certificate(answered.encode())
            names, public = (made.subject, made.issuer), made.public_key()
        except _UNREADABLE as error:
            raise RejectedError("certificate-invalid", "the host's answer is no certificate") from error
        old = present.certificate
        if names != (old.subject, old.issuer) or public != key.public_key():
            raise RejectedError("certificate-invalid", "the certificate is for another device, or another key")
        if made.not_valid_after_utc <= old.not_valid_after_utc:
            raise RejectedError("certificate-invalid", "the certificate ends before the present one")
        _write(self._untried, _pem(key, answered))
        return self._with(self._untried)

    def accept(self) -> None:
        """Let new connections use the certificate that was tried.

        Raises:
            DeviceError: `store-failed`.
        """
        try:
            _write(self._renewed, self._untried.read_bytes())
            self._untried.unlink()
        except OSError as error:
            raise DeviceError("store-failed", f"the renewed certificate can't be kept: {error}") from error

    def _with(self, path: Path) -> BrokerSettings:
        return msgspec.structs.replace(self._settings, cert=path, key=None)

    def _is_renewed_newer(self) -> bool:
        renewed = _read(self._renewed, self._renewed)
        if renewed is None or self._settings.cert is None:
            return False
        given = _read(self._settings.cert, self._settings.key or self._settings.cert)
        if given is None:
            return True
        is_same_name = renewed.certificate.subject == given.certificate.subject
        return is_same_name and renewed.certificate.not_valid_after_utc > given.certificate.not_valid_after_utc


def _read(certificate: Path, key: Path) -> Pair | None:
    """Read a certificate and its P-256 key; None when there are none: the TLS library reports damaged files."""
    try:
        private = load_pem_private_key(key.read_bytes(), None)
        public = x509.load_pem_x509_certificate(certificate.read_bytes())
        if isinstance(private, ec.EllipticCurvePrivateKey) and public.public_key() == private.public_key():
            return Pair(public, private)
    except (OSError, *_UNREADABLE):
        return None
    return None


def _is_renewable(certificate: x509.Certificate) -> bool:
    names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [it.value for it in names] == [enrollment.CLIENT_AUTHORITY]


def _pem(key: ec.EllipticCurvePrivateKey, certificate: str) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.encode()


def _write(path: Path, data: bytes) -> None:
    try:
        files.write(path, data, mode=_SECRET_MODE)
    except OSError as error:
        raise DeviceError("store-failed", f"the renewed certificate can't be written: {error}") from error
