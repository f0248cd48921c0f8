"""The hosts that an HTTP request names: whether one is this machine, the site of a page that sends it, the client's.

The agent's and the dashboard's servers refuse others: against DNS rebinding, and pages of other sites. They have limits
for each address.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

#: Host headers whose meaning is remembered; clients send the same few with every request.
HOSTS_REMEMBERED: Final = 32
#: Bits of an IPv6 address that a client can't choose by itself.
_NETWORK_BITS: Final = 64


def is_local(host: str) -> bool:
    """Return whether a host name or address is loopback."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=HOSTS_REMEMBERED)
def names_local(host_header: str) -> bool:
    """Return whether a Host header names this machine."""
    try:
        return is_local(urlsplit(f"//{host_header}").hostname or "")
    except ValueError:
        return False


def netloc(origin: str) -> str | None:
    """Return the host and port of an origin; None when it has none that could be this server's."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def address_of(host: str) -> str:
    """The part of an address that a client can't choose: of IPv6 the network, of a text that is no address nothing."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> _NETWORK_BITS << _NETWORK_BITS, _NETWORK_BITS)))
