"""The host's session with the broker: its address and TLS files as the command line names them.

The protocol is left to `edgeml_io.mqtt`, the time of the next connection to `serve`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeml_core.broker import BrokerUrl
from edgeml_core.errors import TransportError, UsageError
from edgeml_io import tls
from edgeml_io.mqtt import MqttError, Options, RefusedError, Session
from edgeml_io.password_file import with_password

#: Messages received and not handled yet: 10,000 devices that report at once. The newest of more are lost.
INBOX_MAX_MESSAGES: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Address and files. `ca` replaces the system's authorities; `cert` and `key` are the client's own."""

    url: BrokerUrl
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def session(broker: Broker, client_id: str, *, is_lasting: bool = True) -> Session:
    """Make a session; its connections raise `UsageError` (`usage`) when a certificate file can't be used.

    Args:
        broker: the broker's address, the password's file and the TLS files.
        client_id: the MQTT client id.
        is_lasting: whether the broker keeps messages while the host is away.

    Raises:
        UsageError: `usage`, when the password's file can't be used.
    """
    return Session(
        with_password(broker.url, broker.password_file),
        client_id,
        Options(is_lasting=is_lasting, inbox_max_messages=INBOX_MAX_MESSAGES),
        lambda: _tls_context(broker),
    )


def transport_error(url: BrokerUrl, error: MqttError) -> TransportError:
    """Return an error of MQTT as one of the host's: `broker-refused` or `broker-unreachable`."""
    if isinstance(error, RefusedError):
        hint = "check the user in --broker, and --password-file or --cert"
        return TransportError("broker-refused", f"{url}: {error}", hint)
    return TransportError("broker-unreachable", f"{url}: {error}", "start the broker, and check --broker and --ca")


def _tls_context(broker: Broker) -> ssl.SSLContext:
    try:
        return tls.client_context(ca=broker.ca, cert=broker.cert, key=broker.key)
    except OSError as error:
        hint = "name PEM files with --ca, --cert and --key"
        raise UsageError("usage", f"the broker's certificate files can't be used: {error}", hint) from error
