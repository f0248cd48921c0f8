"""The broker's address."""

from __future__ import annotations

import pytest

from edgeml_core import broker
from edgeml_core.errors import UsageError


def test_ports_follow_from_the_scheme():
    """Without a port, the registered one of the scheme holds."""
    assert broker.parse("mqtt://farm.example") == broker.BrokerUrl(host="farm.example", port=1883, tls=False)
    assert broker.parse("mqtts://farm.example/").port == 8883


def test_credentials_are_decoded_and_not_shown():
    """User and password are percent-decoded; no text of the value holds the password."""
    url = broker.parse("mqtts://edge:p%40ss@[::1]:9001")
    assert (url.host, url.port, url.username, url.password) == ("::1", 9001, "edge", "p@ss")
    assert str(url) == "mqtts://[::1]:9001"
    assert "p@ss" not in repr(url)


@pytest.mark.parametrize(
    "url",
    [
        *("", "farm.example:1883", "http://farm.example", "mqtt://", "mqtt://h:0", "mqtt://h:x", "mqtt://h/topic"),
        *("mqtts://broker..example", f"mqtts://{'h' * 64}.example"),
    ],
)
def test_what_is_no_broker_is_refused(url: str):
    """Another scheme, no host, a bad port or a path is a usage error with a remedy."""
    with pytest.raises(UsageError) as caught:
        broker.parse(url)
    assert caught.value.code == "usage"
    assert "mqtt://" in caught.value.hint


@pytest.mark.parametrize("url", ["mqtt://edge:secret@farm.example/path", "mqtt://edge:secret/1@farm.example"])
def test_the_error_keeps_the_password_to_itself(url: str):
    """A malformed URL with a password is refused without repeating it."""
    with pytest.raises(UsageError) as caught:
        broker.parse(url)
    assert "secret" not in f"{caught.value.message} {caught.value.__cause__}"
