"""The fleet's two certificate authorities in the repository's folder, and the list of revoked certificates.

    REPO/keys/device-ca.pem     issues certificates of devices, of the host and of other clients; `fleet serve` needs it
    REPO/keys/broker-ca.pem     issues the certificate of the broker; it may lie offline
    REPO/authorities/           their public certificates, and `device-ca.crl`

They are two, so that a thief of the host's keys can't stand in for the broker. The keys are encrypted by the passphrase
of the repository's other keys. Which certificates exist is recorded by `enrollment_database`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgeml.repository import certificates, passphrase
from edgeml.repository.certificates import Authority
from edgeml_core.errors import UsageError
from edgeml_io import files

FOLDER: Final = "authorities"
DEVICE_CA: Final = "device-ca"
BROKER_CA: Final = "broker-ca"
_LIST_FILE: Final = f"{DEVICE_CA}.crl"
_SECRET_MODE: Final = 0o600


class Authorities:
    """The authorities of one repository. A key is opened when it is first needed, and may be absent until then."""

    def __init__(self, folder: Path) -> None:
        self._keys = folder / "keys"
        self._folder = folder / FOLDER
        self._opened: dict[str, Authority] = {}

    def create(self, fleet: str, secret: str, now: datetime) -> None:
        """Make both; an empty `secret` encrypts nothing."""
        self._folder.mkdir()
        devices = certificates.make_authority(fleet, "client", now)
        for name, made in ((DEVICE_CA, devices), (BROKER_CA, certificates.make_authority(fleet, "server", now))):
            files.write(self._keys / f"{name}.pem", key_pem(made.key, secret), mode=_SECRET_MODE)
            files.write(self._folder / f"{name}.crt", certificates.pem(made.certificate))
        files.write(self._folder / _LIST_FILE, certificates.pem(devices.revocation_list((), now, None)))

    def certificate(self, name: str) -> x509.Certificate:
        """Read an authority's public certificate.

        Raises:
            UsageError: `repo-invalid`.
        """
        return x509.load_pem_x509_certificate(self._read(self._folder / f"{name}.crt"))

    def path(self, name: str) -> Path:
        """Return the file of an authority's public certificate."""
        return self._folder / f"{name}.crt"

    def devices(self) -> Authority:
        """Open the authority of devices, of the host and of other clients.

        Raises:
            UsageError: `repo-invalid`, when its key is missing or locked.
        """
        return self._open(DEVICE_CA)

    def broker(self) -> Authority:
        """Open the authority of the broker.

        Raises:
            UsageError: `repo-invalid`, when its key is missing or locked.
        """
        return self._open(BROKER_CA)

    def asks(self, name: str) -> bool:
        """Return whether opening a key would wait for a passphrase at the terminal; a service must not."""
        is_open = name in self._opened or passphrase.from_environment()
        path = self._keys / f"{name}.pem"
        return not is_open and path.exists() and b"ENCRYPTED" in self._read(path)

    def revoked(self) -> bytes:
        """Read the list of revoked certificates, in PEM.

        Raises:
            UsageError: `repo-invalid`.
        """
        return self._read(self._folder / _LIST_FILE)

    def revoke(self, serials: Iterable[int], now: datetime) -> None:
        """Sign the list of revoked certificates again; the caller holds the repository's lock."""
        before = x509.load_pem_x509_crl(self.revoked())
        changed = self.devices().revocation_list(serials, now, before)
        files.write(self._folder / _LIST_FILE, certificates.pem(changed))

    def _open(self, name: str) -> Authority:
        if name not in self._opened:
            path = self._keys / f"{name}.pem"
            self._opened[name] = Authority(certificate=self.certificate(name), key=_private(path, self._read(path)))
        return self._opened[name]

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            message = f"the authority's file {path} can't be read"
            raise UsageError("repo-invalid", message, "restore it from your copy of the repository") from error


def key_pem(key: ec.EllipticCurvePrivateKey, secret: str = "") -> bytes:
    """Return a key in PEM; an empty `secret` encrypts nothing."""
    encryption = BestAvailableEncryption(secret.encode()) if secret else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _private(path: Path, data: bytes) -> ec.EllipticCurvePrivateKey:
    hint = f"set {passphrase.VARIABLE} to the passphrase that the key was made with"
    try:
        secret = passphrase.ask(str(path)).encode() if b"ENCRYPTED" in data else None
        key = load_pem_private_key(data, secret)
    except (TypeError, ValueError) as error:
        raise UsageError("repo-invalid", f"the key {path} can't be opened: {error}", hint) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("repo-invalid", f"the key {path} is no P-256 key", "restore it from your copy")
    return key
