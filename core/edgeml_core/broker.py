"""The broker's address, `mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]`, as host and agent both parse it.

This module doesn't connect.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from edgeml_core.errors import UsageError

#: Ports registered for MQTT and for MQTT over TLS.
DEFAULT_PORTS: Final[dict[str, int]] = {"mqtt": 1883, "mqtts": 8883}
_HINT: Final = "use mqtt://HOST[:PORT] or mqtts://HOST[:PORT], for example mqtts://broker.example:8883"


class BrokerUrl(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's address, and the credentials. Its text never shows the password."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerUrl({str(self)!r})"


def parse(url: str) -> BrokerUrl:
    """Parse a broker's URL; user and password are percent-decoded.

    Raises:
        UsageError: `usage`, for another scheme, no host or a malformed one, a bad port, or a path. The message doesn't
            repeat `url`, since that may have a password.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        # Not chained: the cause may quote a part of the password.
        raise UsageError("usage", "the broker's URL is malformed", _HINT) from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise UsageError("usage", "the broker's URL needs the scheme mqtt or mqtts, and a host", _HINT)
    if parts.path not in ("", "/") or parts.query or parts.fragment or port == 0:
        raise UsageError("usage", "the broker's URL has more than a scheme, a host and a port", _HINT)
    try:
        parts.hostname.encode("idna")  # as the resolver does
    except UnicodeError:
        raise UsageError("usage", f"the broker's host name {parts.hostname!r} is malformed", _HINT) from None
    return BrokerUrl(
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme == "mqtts",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
