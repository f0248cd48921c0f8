"""Who is let in: names of this machine on localhost, a token elsewhere, never another site's page."""

import pytest

from edgeml_agent.http_api.auth import Rules, rules
from edgeml_agent.http_api.request import BodyMemory, Request
from edgeml_core.errors import UsageError
from edgeml_io import http_hosts

TOKEN = "a-token-of-24-characters"


def refusal_code(allowed, *, is_public=False, **headers):
    """The code of the refusal, None when let in; keyword names are header names with `_` for `-`."""
    given = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    request = Request({"type": "http", "path": "/", "headers": given}, None, {}, BodyMemory())
    try:
        allowed.check(request, is_public=is_public)
    except UsageError as refusal:
        return refusal.code
    return None


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "127.0.0.2", "[::1]:8080"])
def test_names_of_this_machine_are_let_in_on_localhost(host):
    """All of loopback's names and addresses count, on any port."""
    assert refusal_code(Rules(), host=host) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "192.168.1.5", "", "localhost.evil.example", "["])
def test_other_host_names_are_refused_on_localhost(host):
    """A name that an attacker's DNS points to loopback is not answered."""
    assert refusal_code(Rules(), host=host) == "origin-refused"


def test_a_page_of_another_site_is_refused():
    """A cross-site request names its own origin; the server's own page is let in."""
    assert refusal_code(Rules(), host="localhost:8080", origin="https://evil.example") == "origin-refused"
    for origin in ("null", "http://[", "http://[::1", ""):
        assert refusal_code(Rules(), host="localhost:8080", origin=origin) == "origin-refused"
    assert refusal_code(Rules(), host="localhost:8080", origin="http://localhost:8080") is None


def test_off_localhost_only_the_token_opens():
    """No token, another token and another scheme are refused alike."""
    allowed = Rules(local_only=False, token=TOKEN)
    assert refusal_code(allowed, host="device-7") == "unauthorized"
    assert refusal_code(allowed, host="device-7", authorization="Bearer wrong") == "unauthorized"
    assert refusal_code(allowed, host="device-7", authorization="Bearer ä") == "unauthorized"
    assert refusal_code(allowed, host="device-7", authorization=f"Basic {TOKEN}") == "unauthorized"
    assert refusal_code(allowed, host="device-7", authorization=f"bearer {TOKEN}") is None


def test_check_of_a_public_operation_needs_no_token():
    """A page of another site is refused there, too."""
    allowed = Rules(local_only=False, token=TOKEN)
    assert refusal_code(allowed, is_public=True, host="device-7") is None
    assert refusal_code(allowed, is_public=True, host="device-7", origin="https://evil.example") == "origin-refused"
    assert refusal_code(allowed, host="device-7") == "unauthorized"


@pytest.mark.parametrize("host", ["::", "192.168.1.5", "device-7"])
def test_listening_elsewhere_without_a_token_is_refused(host):
    """The agent doesn't start open to the network."""
    with pytest.raises(UsageError) as caught:
        rules(host, None)
    assert caught.value.code == "config-invalid"
    assert "token_file" in caught.value.hint


def test_a_token_file_is_read_without_its_line_end(tmp_path):
    """Editors end files with a line end; it is no part of the token."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert rules("192.168.1.5", path) == Rules(local_only=False, token=TOKEN)
    assert rules("127.0.0.1", path) == Rules(local_only=True, token=TOKEN)


@pytest.mark.parametrize("content", [b"", b"short\n", b"two words of a token\n", b"\xff" * 30])
def test_an_unfit_token_file_is_refused(tmp_path, content):
    """A token that is short, has blanks or isn't text is refused at the start."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        rules("127.0.0.1", path)
    assert caught.value.code == "config-invalid"


def test_a_missing_token_file_is_refused(tmp_path):
    """The server doesn't start without the token that it was told to want."""
    with pytest.raises(UsageError):
        rules("127.0.0.1", tmp_path / "absent")


def test_loopback_is_more_than_one_address():
    """127/8 and ::1 are local; a name that only looks like it is not."""
    assert http_hosts.is_local("127.8.9.1")
    assert http_hosts.is_local("::1")
    assert not http_hosts.is_local("localhost.example")
    assert not http_hosts.is_local("::")
