"""Tokens and messages of enrollment."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from edgeml_core import enrollment
from edgeml_core.enrollment import EnrollAnswer, EnrollRequest, Token
from edgeml_core.errors import RejectedError, UsageError

AUTHORITY = b"the certificate"


def test_token_survives_its_text_and_shows_no_secret_otherwise():
    """What an operator copies is what the device reads; a log has neither."""
    made = enrollment.make_token(AUTHORITY)
    assert enrollment.parse_token(made.text) == made
    assert made.authority_sha256 == hashlib.sha256(AUTHORITY).digest()
    assert made.text.startswith(enrollment.TOKEN_PREFIX)
    assert repr(made) == "Token(...)"
    assert made.secret != enrollment.make_token(AUTHORITY).secret


CUTS = (
    lambda it: it[:-4],
    lambda it: f"{it}AAAA",
    lambda it: it[7:],
    lambda it: it + " ",
    lambda it: it.replace("edgeml_", "edgemi_"),
    lambda _: "",
    lambda _: "edgeml_é",
)


@pytest.mark.parametrize("cut", CUTS)
def test_incomplete_token_is_refused_without_repeating_it(cut):
    """A token copied in part, or something else."""
    text = cut(Token(secret=bytes(16), authority_sha256=bytes(32)).text)
    with pytest.raises(UsageError, match="incomplete") as caught:
        enrollment.parse_token(text)
    assert not text or text not in caught.value.message


def test_stored_digest_is_not_the_digest_of_the_secret():
    """It is that of a text of its own, so no other use of the secret gives it."""
    assert enrollment.secret_digest(bytes(16)) != hashlib.sha256(bytes(16)).hexdigest()
    assert enrollment.secret_digest(bytes(16)) != enrollment.secret_digest(bytes(15) + b"\1")


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"secret": 1}', b"\xff", b" " * 20_000,
                                     b'{"secret": "AAAA", "device": "a", "csr": "", "admin": true}'])  # fmt: skip
def test_malformed_request_is_rejected(payload):
    """Too long, no JSON, another shape, or with a field that no device sends."""
    with pytest.raises(RejectedError) as caught:
        enrollment.decode(payload, EnrollRequest)
    assert caught.value.code == "document-format"


def test_request_survives_its_encoding():
    """The secret is bytes on both sides."""
    request = EnrollRequest(secret=bytes(range(16)), device="barn-1", csr="PEM", store="/var/lib/edgeml")
    assert enrollment.decode(msgspec.json.encode(request), EnrollRequest) == request


@pytest.mark.parametrize("name", ["../agent.toml", "/etc/passwd", "a/b/c", ".bashrc", "trust/../x", "device.pem", "",
                                  "a/.b", "A.pem", "a" * 200, "a\nb", "trust/"])  # fmt: skip
def test_files_outside_the_folder_and_the_key_are_rejected(name):
    """A hostile host with a right token gets no file elsewhere, and never the key's."""
    with pytest.raises(RejectedError, match="no device takes"):
        enrollment.check_files({"agent.toml": "", enrollment.ISSUED_FILE: "", name: ""})


def test_answer_needs_configuration_and_certificate():
    """All other files are the fleet's choice."""
    enrollment.check_files({"agent.toml": "", "device.crt": "", "trust/fleet.root.json": "", "groups/clinic.key": ""})
    with pytest.raises(RejectedError, match=r"no file device\.crt"):
        enrollment.check_files(EnrollAnswer(files={"agent.toml": ""}).files)
