"""The part of a client's address that limits count."""

import pytest

from edgeml_io.http_hosts import address_of


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:a:b:c:d", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unknown", ""),
        ("192.0.2.7:80", ""),
        ("[2001:db8::1", ""),
    ],
)
def test_address_of_ipv6_is_its_network(host, address):
    """A client chooses the rest of its address by itself."""
    assert address_of(host) == address
