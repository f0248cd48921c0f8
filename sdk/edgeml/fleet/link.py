"""The host's session with the broker: its address and TLS files as the command line names them.

The protocol is left to `edgeml_io.mqtt`, the loops that connect again to `serve` and `nodes`.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeml.fleet.leadership import Election
from edgeml_core.broker import BrokerUrl
from edgeml_core.errors import TransportError, UsageError
from edgeml_core.messages import Topics
from edgeml_io import backoff, tls
from edgeml_io.mqtt import MqttError, Options, RefusedError, Session
from edgeml_io.password_file import with_password

#: Messages received and not handled yet: 10,000 devices that report at once. The newest of more are lost.
INBOX_MAX_MESSAGES: Final = 10_000
#: Seconds between connections at first: the host should return before its devices, whose messages it would miss.
RECONNECT_FIRST_S: Final = 0.3
#: The longest time between them, in seconds; the jitter makes it at most 30.
RECONNECT_MAX_S: Final = 20.0


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Address and files. `ca` replaces the system's authorities; `cert` and `key` are the client's own.

    `nodes` are those of its cluster at which the host retains the signed files, too: see `edgeml.fleet.nodes`.
    """

    url: BrokerUrl
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    nodes: tuple[BrokerUrl, ...] = ()


def host_backoff() -> backoff.Backoff:
    """Return the delays between the host's connections."""
    return backoff.Backoff(RECONNECT_FIRST_S, RECONNECT_MAX_S)


def session(
    broker: Broker,
    client_id: str,
    *,
    is_lasting: bool = True,
    acknowledges: bool = False,
    yields: Callable[[str], bool] = lambda _: False,
) -> Session:
    """Make a session; its connections raise `UsageError` (`usage`) when a certificate file can't be used.

    Args:
        broker: the broker's address, the password's file and the TLS files.
        client_id: the MQTT client id.
        is_lasting: whether the broker keeps messages while the host is away.
        acknowledges: whether the caller acknowledges messages of QoS 1 itself.
        yields: the topics that fill half of the inbox at most.

    Raises:
        UsageError: `usage`, when the password's file can't be used.
    """
    return Session(
        with_password(broker.url, broker.password_file),
        client_id,
        Options(is_lasting=is_lasting, inbox_max_messages=INBOX_MAX_MESSAGES, yields=yields, acknowledges=acknowledges),
        lambda: _tls_context(broker),
    )


def client_id(topics: Topics, name: str = "") -> str:
    """Return a client id of the fleet's host: of a lasting session with this name, else one of a single connection."""
    return f"edgeml-host-{topics.root.rpartition('/')[2]}-{name or secrets.token_hex(8)}"


class HostSessions:
    """The sessions of one host: a lasting one while it leads, else one that ends with its connection.

    Args:
        broker: where to connect.
        topics: those of the fleet.
    """

    def __init__(self, broker: Broker, topics: Topics) -> None:
        self._broker = broker
        self._topics = topics
        self._name = ""
        self._session: Session | None = None

    def present(self, election: Election) -> Session:
        """Return the session for the host's part in the present leadership.

        The leader's has the name that the registry gives it. Without a registry it has none that a next start would
        know, so that it ends with its connection, too.
        """
        name = election.session if election.is_leader else ""
        if self._session is None or name != self._name:
            self._name = name
            self._session = session(
                self._broker,
                client_id(self._topics, name),
                is_lasting=bool(name),
                acknowledges=True,
                yields=lambda topic: topic.startswith(self._topics.want("")),
            )
        return self._session


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
