"""Certificates of a fleet, judged by OpenSSL's own program."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from edgeml.repository import certificates
from edgeml.repository.certificates import Authority, Holder
from edgeml.repository.enrollment_database import EnrollmentDatabase, Issued
from edgeml_core.errors import RejectedError, UsageError

NOW = datetime.now(UTC)


def openssl(*arguments: str | Path) -> str:
    """What OpenSSL's program prints."""
    done = subprocess.run([shutil.which("openssl"), *arguments], capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}"


def verified(authority: Authority, leaf: x509.Certificate, tmp_path: Path, *options: str | Path) -> bool:
    """Whether OpenSSL accepts a certificate by an authority, in its strict mode."""
    (tmp_path / "ca.crt").write_bytes(certificates.pem(authority.certificate))
    (tmp_path / "leaf.crt").write_bytes(certificates.pem(leaf))
    return ": OK" in openssl("verify", "-x509_strict", "-CAfile", tmp_path / "ca.crt", *options, tmp_path / "leaf.crt")


def client(authority: Authority, name: str = "barn-1") -> x509.Certificate:
    """A device's certificate."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return authority.issue_client(Holder(name=name, role="device", fleet="farm"), public, NOW)


@pytest.mark.parametrize("fleet", ["farm", "a" * 63, "x_1-y"])
def test_lookup_hash_is_that_of_openssl(fleet, tmp_path):
    """OpenSSL would otherwise never find a list of revoked certificates, and refuse nobody."""
    authority = certificates.make_authority(fleet, "client", NOW)
    (tmp_path / "ca.crt").write_bytes(certificates.pem(authority.certificate))
    expected = openssl("x509", "-hash", "-noout", "-in", tmp_path / "ca.crt").strip()
    assert certificates.lookup_hash(authority.certificate.subject) == expected


def test_certificates_are_valid_for_their_usage_only(tmp_path):
    """A device's is no server's, and the authority of devices can't issue a server's."""
    devices = certificates.make_authority("farm", "client", NOW)
    servers = certificates.make_authority("farm", "server", NOW)
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert verified(devices, client(devices), tmp_path, "-purpose", "sslclient")
    assert not verified(devices, client(devices), tmp_path, "-purpose", "sslserver")
    forged = devices.issue_server(("broker.example",), public, NOW)
    assert not verified(devices, forged, tmp_path, "-purpose", "sslserver")
    server = servers.issue_server(("broker.example", "10.0.0.2"), public, NOW)
    assert verified(servers, server, tmp_path, "-purpose", "sslserver", "-verify_hostname", "broker.example")
    assert verified(servers, server, tmp_path, "-purpose", "sslserver", "-verify_ip", "10.0.0.2")
    assert not verified(servers, server, tmp_path, "-verify_hostname", "other.example")
    assert not verified(servers, client(devices), tmp_path)


def test_device_certificate_issues_no_other(tmp_path):
    """Its key may sign nothing but handshakes."""
    devices, key = certificates.make_authority("farm", "client", NOW), ec.generate_private_key(ec.SECP256R1())
    own = devices.issue_client(Holder(name="barn-1", role="device", fleet="farm"), key.public_key(), NOW)
    forged = client(Authority(certificate=own, key=key), "barn-2")
    (tmp_path / "chain.crt").write_bytes(certificates.pem(own))
    assert not verified(devices, forged, tmp_path, "-untrusted", tmp_path / "chain.crt")


def test_newest_list_of_revoked_certificates_counts_within_one_second(tmp_path):
    """Two revocations of one second: OpenSSL finds both lists in the folder, and takes the second."""
    devices = certificates.make_authority("farm", "client", NOW)
    first, second = client(devices), client(devices, "barn-2")
    one = devices.revocation_list([first.serial_number], NOW, None)
    both = devices.revocation_list([first.serial_number, second.serial_number], NOW, one)
    stem = certificates.lookup_hash(devices.certificate.subject)
    (tmp_path / f"{stem}.r0").write_bytes(certificates.pem(one))
    options = ("-crl_check", "-CApath", tmp_path)
    assert not verified(devices, first, tmp_path, *options)
    assert verified(devices, second, tmp_path, *options)
    (tmp_path / f"{stem}.r1").write_bytes(certificates.pem(both))
    assert not verified(devices, first, tmp_path, *options)
    assert not verified(devices, second, tmp_path, *options)


def test_list_of_revoked_certificates_from_the_future_is_left_behind_by_the_next(tmp_path):
    """The host's clock was ahead once. OpenSSL refuses all clients as long as no valid list is there."""
    devices = certificates.make_authority("farm", "client", NOW)
    revoked, other = client(devices), client(devices, "barn-2")
    ahead = devices.revocation_list([revoked.serial_number], NOW + timedelta(days=1000), None)
    corrected = devices.revocation_list([revoked.serial_number], NOW, ahead)
    stem = certificates.lookup_hash(devices.certificate.subject)
    options = ("-crl_check", "-CApath", tmp_path)
    (tmp_path / f"{stem}.r0").write_bytes(certificates.pem(ahead))
    assert not verified(devices, other, tmp_path, *options)
    (tmp_path / f"{stem}.r1").write_bytes(certificates.pem(corrected))
    assert verified(devices, other, tmp_path, *options)
    assert not verified(devices, revoked, tmp_path, *options)
    number = corrected.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == 2


def test_certificates_that_a_clock_ahead_takes_for_expired_are_not_forgotten(tmp_path):
    """But expired ones of the name that gets another one, which aren't revoked."""
    database = EnrollmentDatabase(tmp_path)
    for serial, name in ((1, "stolen"), (2, "barn-1"), (3, "barn-2")):
        database.add_certificate(Issued(serial=serial, name=name, role="device", ends_s=100.0), 0.0)
    database.revoke("stolen")
    for serial, name in ((4, "barn-2"), (5, "stolen")):
        database.add_certificate(Issued(serial=serial, name=name, role="device", ends_s=2000.0), 1000.0)
    found = {name: [it.serial for it in database.certificates(name)] for name in ("stolen", "barn-1", "barn-2")}
    assert found == {"stolen": [1, 5], "barn-1": [2], "barn-2": [4]}
    assert database.revoke("barn-2") == [1, 4]


def test_certificate_names_device_fleet_and_role():
    """The broker takes the common name as the user; a person reads the rest."""
    made = client(certificates.make_authority("farm", "client", NOW))
    assert certificates.name_of(made) == "barn-1"
    assert made.subject.rfc4514_string() == "CN=barn-1,OU=device,O=farm"
    begins, ends = made.not_valid_before_utc, made.not_valid_after_utc
    assert ends - begins == timedelta(days=certificates.CLIENT_DAYS) + certificates.BACKDATED
    assert not certificates.is_past_half(made, begins + (ends - begins) / 2)
    assert certificates.is_past_half(made, begins + (ends - begins) / 2 + timedelta(seconds=1))


def requested(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """A certificate request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_request_needs_a_p256_key_that_has_signed_it():
    """Other kinds of keys, altered requests and no requests are refused."""
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    assert certificates.requested_key(requested(key)) == key.public_key()
    der = bytearray(x509.load_pem_x509_csr(requested(key).encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    altered = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    for bad in (altered, requested(other), requested(rsa.generate_private_key(65537, 2048)), "", "no request"):
        with pytest.raises(RejectedError, match="certificate request"):
            certificates.requested_key(bad)


@pytest.mark.parametrize("name", ["", "a b", "https://host", "user@host", "host:8883", "-x", "a" * 65, "::zz", "hö"])
def test_malformed_host_names_are_refused(name):
    """A certificate for such a name would match no address."""
    with pytest.raises(UsageError, match="no host name"):
        certificates.check_host_name(name)


@pytest.mark.parametrize("name", ["broker.example", "10.0.0.2", "::1", "localhost"])
def test_host_names_and_addresses_are_taken(name):
    """As they stand in an address."""
    assert certificates.check_host_name(name) == name
