"""Heads that two readers may understand differently, and what clients are told of errors."""

import pytest

from edgeml_agent.http_api import errors
from edgeml_agent.http_api.request import SINGLE_HEADERS, BodyMemory, Request
from edgeml_core.errors import UsageError


def request(*headers):
    """A request with these headers."""

    async def receive():
        raise AssertionError("nothing is read")

    return Request({"type": "http", "method": "POST", "path": "/", "headers": list(headers)}, receive, {}, BodyMemory())


@pytest.mark.parametrize("name", SINGLE_HEADERS)
def test_check_head_refuses_a_header_sent_twice(name):
    """Also with the same value; any other header may come twice."""
    with pytest.raises(UsageError, match="twice"):
        request((name, b"chunked"), (b"a", b"1"), (name, b"chunked")).check_head()
    request((name, b"chunked"), (b"accept", b"1"), (b"accept", b"2")).check_head()


@pytest.mark.parametrize("encoding", [b"gzip, chunked", b"gzip", b"chunked, chunked", b"identity", b""])
def test_check_head_refuses_transfer_encodings_but_chunked(encoding):
    """The body would be taken as it is, though the client has compressed it."""
    with pytest.raises(UsageError, match="transfer encoding"):
        request((b"transfer-encoding", encoding)).check_head()
    request((b"transfer-encoding", b"Chunked")).check_head()


def test_clients_are_pointed_to_no_command_line():
    """Errors without a hint of their own reach clients, who have no `--help`."""
    for form in (errors.OWN, errors.PROTOCOL, errors.OPENAI):
        assert "--" not in str(form.body(UsageError("input-invalid", "wrong"), 400))
