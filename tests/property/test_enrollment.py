"""Messages and tokens of enrollment, for all inputs: a stranger's bytes give an error of edgeml's, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from edgeml.repository import certificates
from edgeml_core import enrollment
from edgeml_core.enrollment import EnrollRequest, RenewAnswer, RenewRequest, Token
from edgeml_core.errors import EdgemlError, UsageError

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda it: st.lists(it, max_size=3))
FIELDS = st.sampled_from(["secret", "device", "csr", "store", "certificate", "signature", "code", "message"])
PAYLOADS = st.binary(max_size=200) | st.dictionaries(FIELDS, VALUES, max_size=6).map(lambda it: json.dumps(it).encode())


@given(secret=st.binary(min_size=16, max_size=16), digest=st.binary(min_size=32, max_size=32))
def test_every_token_survives_its_text(secret, digest):
    """And is one word, which a shell takes as it is."""
    token = Token(secret=secret, authority_sha256=digest)
    assert enrollment.parse_token(token.text) == token
    assert token.text.replace("-", "").replace("_", "").isalnum()


@given(text=st.text(max_size=100) | st.text(max_size=80).map(lambda it: enrollment.TOKEN_PREFIX + it))
def test_any_other_text_is_refused(text):
    """By a usage error; a valid one is so rare that it doesn't come."""
    with contextlib.suppress(UsageError):
        enrollment.parse_token(text)


@given(payload=PAYLOADS)
def test_any_payload_is_a_message_or_rejected(payload):
    """Also where it looks like one."""
    for kind in (EnrollRequest, RenewRequest, RenewAnswer):
        with contextlib.suppress(EdgemlError):
            enrollment.decode(payload, kind)


@given(text=st.text(max_size=100), inner=st.binary(max_size=100))
def test_any_text_is_a_certificate_request_or_rejected(text, inner):
    """Also PEM of anything."""
    body, kind = base64.b64encode(inner).decode(), "CERTIFICATE REQUEST"
    armor = f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"
    for pem in (text, armor):
        with contextlib.suppress(EdgemlError):
            certificates.requested_key(pem)
