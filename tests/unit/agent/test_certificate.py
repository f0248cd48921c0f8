"""The device's own certificate, and the answers to its requests that a broker's owner may forge."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edgeml_agent.link.certificate import DeviceCertificate, Pair
from edgeml_agent.settings import BrokerSettings
from edgeml_core.errors import RejectedError
from support.memory_connection import URL

NOW = datetime.now(UTC)
#: Bytes of a certificate in DER, and others that cryptography can't read: it has an error of its own for each.
STRANGE = {
    "key": (b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x09"),
    "curve": (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x55"),
    "version": (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09"),
}


def a_certificate(key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    """A certificate that ends after some days; its names are no secret."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "barn-1")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=days))
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize("part", STRANGE)
def test_answer_that_cannot_be_read_is_refused(tmp_path, part):
    """Any other error would end the agent, and with it its models' answers."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = DeviceCertificate(BrokerSettings(url=URL, cert=tmp_path / "barn-1.pem"), tmp_path)
    forged = a_certificate(key, days=9).public_bytes(Encoding.DER).replace(*STRANGE[part], 1)
    answer = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(forged).decode()}\n-----END CERTIFICATE-----\n"
    with pytest.raises(RejectedError) as caught:
        made.check(Pair(a_certificate(key, days=1), key), key, answer)
    assert caught.value.code == "certificate-invalid"
    (tmp_path / "barn-1.pem").write_text(answer)
    assert made.present() is None
