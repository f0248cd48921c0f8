"""Certificates of a broker on loopback, made for one test."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY: Final = dt.timedelta(days=1)
PEM: Final = serialization.Encoding.PEM


def certify(folder: Path, since: dt.timedelta = -DAY, until: dt.timedelta = 9 * DAY) -> None:
    """Write a certificate for 127.0.0.1, signed by itself: authority and broker in one.

    Args:
        folder: gets `ca.crt`, `broker.crt` and `broker.key`.
        since: the beginning of its validity, from now.
        until: the end of its validity, from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now + since, now + until)
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    for path in ("ca.crt", "broker.crt"):
        (folder / path).write_bytes(certificate.public_bytes(PEM))
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "broker.key").write_bytes(private)
