"""Tokens: who may use one, when, and what is kept of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeml.repository import Repository, RepositoryFolder, client_certificates, layout, tokens
from edgeml_core import enrollment
from edgeml_core.enrollment import EnrollRequest
from edgeml_core.errors import EdgemlError, UsageError

NOW = datetime.now(UTC)
URL = "mqtts://host.example:8883"
NAMELESS = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
#: Thieves that use one token at the same moment.
THIEVES = 8


@pytest.fixture
def folder(tmp_path: Path) -> RepositoryFolder:
    return layout.opened(Repository.init(tmp_path / "repo", passphrase="").path)


def make(folder: RepositoryFolder, **options: object) -> str:
    """One token."""
    with folder.locked():
        return tokens.make(folder, now=NOW, labels=options.pop("labels", {}), **options).tokens[0]


def request(
    token: str,
    device: str = "barn-1",
    key: ec.EllipticCurvePrivateKey | None = None,
    builder: x509.CertificateSigningRequestBuilder = NAMELESS,
) -> EnrollRequest:
    """A device's request, with a key of its own."""
    csr = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    secret = enrollment.parse_token(token).secret
    return EnrollRequest(secret=secret, device=device, csr=csr.public_bytes(Encoding.PEM).decode())


def code(folder: RepositoryFolder, asked: EnrollRequest, now: datetime = NOW) -> str:
    """The code with which a request is refused; empty when it isn't."""
    try:
        tokens.redeem(folder, asked, URL, now)
    except EdgemlError as error:
        return error.code
    return ""


def test_token_is_kept_as_a_digest_alone(folder):
    """A thief of the database can enroll nothing."""
    token = make(folder)
    content = b"".join(path.read_bytes() for path in folder.folder.glob("enrollment.db*"))
    secret = enrollment.parse_token(token).secret
    assert enrollment.secret_digest(secret).encode() in content
    assert secret not in content
    assert token.encode() not in content


def test_token_enrolls_with_its_labels_and_groups_until_its_last_second(folder):
    """The request names the id, and nothing else that is signed."""
    token = make(folder, labels={"site": "a"}, groups=("clinic",), life=timedelta(hours=1))
    late = NOW + timedelta(hours=1)
    assert code(folder, request(token), late) == "token-expired"
    answer = tokens.redeem(folder, request(token), URL, late - timedelta(seconds=1))
    assert folder.labels()["barn-1"] == {"site": "a"}
    enrollment.check_files(answer.files)
    assert "groups/clinic.key" in answer.files
    assert f'url = "{URL}"' in answer.files["agent.toml"]
    assert x509.load_pem_x509_certificate(answer.files["device.crt"].encode()).subject.rfc4514_string().startswith(
        "CN=barn-1,")  # fmt: skip


def test_used_token_serves_the_same_key_and_id_alone(folder):
    """The answer may be lost; a copy of the token gives nothing, not even the same id."""
    key, token = ec.generate_private_key(ec.SECP256R1()), make(folder)
    assert code(folder, request(token, key=key)) == ""
    assert code(folder, request(token, key=key)) == ""
    assert code(folder, request(token)) == "token-used"
    assert code(folder, request(token, "barn-2", key)) == "token-used"
    assert code(folder, request(token, key=key), NOW + timedelta(days=8)) == "token-expired"
    assert list(folder.labels()) == ["barn-1"]


@pytest.mark.parametrize("share_id", [True, False])
def test_token_that_many_use_at_once_enrolls_one(folder, share_id):
    """Each thief has a key of its own, and the owner's id or another; all but one hear that it is used."""
    token, barrier = make(folder), threading.Barrier(THIEVES)
    asked = [request(token, "barn-1" if share_id else f"barn-{number}") for number in range(THIEVES)]

    def steal(it: EnrollRequest) -> str:
        own = layout.opened(folder.folder)
        barrier.wait()
        return code(own, it)

    with ThreadPoolExecutor(THIEVES) as threads:
        codes = sorted(threads.map(steal, asked))
    assert codes == ["", *["token-used"] * (THIEVES - 1)]
    assert len(folder.labels()) == 1
    assert len(folder.enrollments.certificates(next(iter(folder.labels())))) == 1


def test_request_with_the_names_and_usages_of_others_gets_its_own_alone(folder):
    """It asks for a certificate of the host, for servers, that may issue others; its key is all that counts."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "origin"),
                      x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "host")])  # fmt: skip
    greedy = (
        x509.CertificateSigningRequestBuilder(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("host.example")]), critical=False)
    )
    key = ec.generate_private_key(ec.SECP256R1())
    answer = tokens.redeem(folder, request(make(folder), key=key, builder=greedy), URL, NOW)
    issued = x509.load_pem_x509_certificate(answer.files["device.crt"].encode())
    plain = tokens.redeem(folder, request(make(folder), "barn-2"), URL, NOW)
    other = x509.load_pem_x509_certificate(plain.files["device.crt"].encode())
    assert issued.public_key() == key.public_key()
    named = {it.oid: it.value for it in issued.subject}
    assert named == {it.oid: it.value for it in other.subject} | {NameOID.COMMON_NAME: "barn-1"}
    assert {it.oid for it in issued.extensions} == {it.oid for it in other.extensions}
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("device", ["origin", "operator", "client", "echo", "Barn 1", "../x", "", "a" * 64])
def test_refused_id_leaves_the_token_unused(folder, device):
    """The same for an id that is taken; the device asks again under another."""
    token, other = make(folder), make(folder)
    assert code(folder, request(token, device)) == "usage"
    assert code(folder, request(token)) == ""
    assert code(folder, request(other)) == "device-exists"
    assert code(folder, request(other, "barn-2")) == ""


def test_token_of_a_device_enrolls_it_again_and_no_other(folder):
    """Its certificate has expired, or its board was replaced."""
    assert code(folder, request(make(folder))) == ""
    bound = make(folder, device="barn-1")
    assert code(folder, request(bound, "barn-2")) == "token-unknown"
    assert code(folder, request(bound)) == ""
    assert code(folder, request(bound)) == "token-used"


def test_token_of_an_enrolled_device_adds_its_groups_and_keeps_its_labels(folder):
    """Its record gets the next version once, also when the answer is asked for again."""
    assert code(folder, request(make(folder, labels={"site": "a"}))) == ""
    bound, key = make(folder, device="barn-1", groups=("clinic",)), ec.generate_private_key(ec.SECP256R1())
    for _ in range(2):
        assert code(folder, request(bound, key=key)) == ""
    record = folder.records.find("barn-1")
    assert (record.version, record.labels, record.groups) == (2, {"site": "a"}, ("clinic",))


def test_enrollment_by_token_is_in_the_audit_log_once(folder):
    """With digests of the token and of the device's key, from which nobody can enroll."""
    token, key = make(folder), ec.generate_private_key(ec.SECP256R1())
    for _ in range(2):
        assert code(folder, request(token, key=key)) == ""
    used, enrolled = [it for it in folder.audit.entries() if it.subject == "barn-1"]
    assert (used.act, enrolled.act) == ("use-token", "enroll")
    assert used.details["token"] == enrollment.secret_digest(enrollment.parse_token(token).secret)


def test_use_of_a_token_is_synced(folder):
    """With the folder, where the removed journal would undo it after a power cut."""
    with folder.enrollments._open() as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (3,), "EXTRA"


def test_revocation_takes_the_tokens_of_a_device(folder):
    """Those that it has used, and those that would bring it back: its key alone is no way in."""
    key, token = ec.generate_private_key(ec.SECP256R1()), make(folder)
    assert code(folder, request(token, key=key)) == ""
    bound = make(folder, device="barn-1")
    with folder.locked():
        client_certificates.revoke_certificate(folder, "barn-1", NOW)
    assert code(folder, request(token, key=key)) == "token-unknown"
    assert code(folder, request(bound, key=key)) == "token-unknown"


def test_foreign_secret_and_malformed_request_are_refused(folder, tmp_path):
    """Another fleet's token; a request without a key of its own."""
    other = layout.opened(Repository.init(tmp_path / "other", passphrase="").path)
    assert code(folder, request(make(other))) == "token-unknown"
    bad = EnrollRequest(secret=enrollment.parse_token(make(folder)).secret, device="barn-1", csr="none")
    assert code(folder, bad) == "document-format"
    assert folder.labels() == {}


OUT_OF_BOUNDS = (
    {"count": 0},
    {"count": 10_001},
    {"life": timedelta()},
    {"life": timedelta(days=367)},
    {"device": "barn-1", "count": 2},
    {"device": "barn-1", "labels": {"a": "b"}},
    {"device": "Barn"},
    {"groups": ("No Name",)},
)


@pytest.mark.parametrize("options", OUT_OF_BOUNDS)
def test_tokens_out_of_bounds_are_refused(folder, options):
    """Numbers, times and names; nothing is stored."""
    with pytest.raises(UsageError):
        make(folder, **options)
