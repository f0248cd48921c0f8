"""A broker's password from a file: the file's content is the password, and no message shows it."""

import os

import pytest

from edgeml_core import broker
from edgeml_core.errors import UsageError
from edgeml_io.password_file import PASSWORD_MAX_BYTES, with_password

URL = broker.parse("mqtts://origin@farm.example")


def test_password_file_gives_the_password_without_its_line_break(tmp_path):
    """A blank in it belongs to it; without a file the address stays as it is."""
    (tmp_path / "password").write_bytes("gr\u00fcn 1 \r\n".encode())
    found = with_password(URL, tmp_path / "password")
    assert (found.username, found.password) == ("origin", "gr\u00fcn 1 ")
    assert "1" not in f"{found} {found!r}"
    assert with_password(URL, None) is URL


@pytest.mark.parametrize(
    ("url", "content", "problem"),
    [
        ("mqtts://origin@farm.example", b"", "is empty"),
        ("mqtts://origin@farm.example", b"\n", "is empty"),
        ("mqtts://origin@farm.example", b"s3cret\xff", "no text"),
        ("mqtts://origin@farm.example", b"s" * (PASSWORD_MAX_BYTES + 1), "longer than 65535"),
        ("mqtts://farm.example", b"s3cret", "names no user"),
        ("mqtts://origin:other@farm.example", b"s3cret", "has a password beside"),
    ],
)
def test_password_file_that_cant_be_used_is_refused_without_its_content(tmp_path, url, content, problem):
    """Neither in the message nor in its cause."""
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(UsageError, match=problem) as caught:
        with_password(broker.parse(url), tmp_path / "password")
    assert "s3cret" not in f"{caught.value.message} {caught.value.__cause__}"


def test_password_file_that_is_missing_is_named(tmp_path):
    """Also where it is a folder."""
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UsageError, match="can't be read") as caught:
            with_password(URL, path)
        assert os.fspath(path) in caught.value.message
