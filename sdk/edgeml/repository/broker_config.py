"""The configuration of a fleet's Mosquitto, 2.0 or 2.1, as text: mosquitto.conf, and the access list.

Every client has a certificate, whose name is the user and the client id. Mosquitto checks rights at publishing and at
delivery, never at SUBSCRIBE: a forbidden filter is granted, and delivers nothing. Files are left to `broker_folder`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from edgeml.repository.certificates import Role
from edgeml_core.messages import PROTOCOL

#: The host's user. It has one connection at a time, since the user's name is the client id.
HOST_NAME: Final = "origin"
#: The operator whose certificate the host's own commands use.
OPERATOR_NAME: Final = "operator"
#: That of the dashboard: two connections of one name would end each other.
DASHBOARD_NAME: Final = "dashboard"
#: Clients that the host issues certificates for when it needs them. Their rights are there before: a broker that runs
#: reads others only after SIGHUP.
OWN_CLIENTS: Final[dict[str, Role]] = {HOST_NAME: "host", OPERATOR_NAME: "operator", DASHBOARD_NAME: "operator"}
#: Names with rights of their own, or a meaning in topics; no device has one.
RESERVED_NAMES: Final = ("client", "echo", "homeassistant", *OWN_CLIENTS)
DEFAULT_PORT: Final = 8883
#: Bytes of the longest packet: a manifest of 8 MiB and 64 KiB; `edgeml_io.packet_limit` has it, too.
PACKET_MAX_BYTES: Final = 8 * 1024**2 + 64 * 1024

#: Messages that wait for one client: 10,000 devices that report at once, as many as the host's own inbox takes.
QUEUED_MAX_MESSAGES: Final = 10_000

#: Settings of OpenSSL for the broker, which has no option for them. A resumed session shows no certificate, and would
#: pass the list of revoked ones.
OPENSSL_CONF: Final = """\
openssl_conf = openssl
[openssl]
ssl_conf = ssl
[ssl]
system_default = server
[server]
Options = -SessionTicket
NumTickets = 0
"""

#: Rights of each device, under its name (`%u`). A pattern holds for every user of the broker.
_PATTERNS: Final = """\
pattern read ROOT/trust/#
pattern read ROOT/chunk/#
pattern read ROOT/wave/+
pattern read ROOT/record/%u
pattern readwrite ROOT/want/%u
pattern readwrite ROOT/device/%u/state
pattern readwrite ROOT/device/%u/report
pattern read ROOT/device/%u/call
pattern readwrite ROOT/device/%u/reply
# The next certificate of a device, and the request for it.
pattern write ROOT/renew/%u
pattern read ROOT/certificate/%u
# Requests to a device's models, and the answers. A device writes one of them only to check that it may read them.
pattern read ROOT/device/%u/infer/+/+
pattern write ROOT/device/%u/infer/echo/%u
pattern readwrite ROOT/device/%u/answer/+
pattern write ROOT/client/+/%u
pattern read ROOT/client/echo/%u
pattern write homeassistant/sensor/%u/+/config
# A device publishes here to check that it may read the tree.
pattern write ROOT/trust/echo/%u
pattern write ROOT/chunk/echo/%u
"""

#: The patterns hold for these users, too: they read no weights and no signed files.
_NO_FILES: Final = """\
topic deny ROOT/trust/#
topic deny ROOT/chunk/#
topic deny ROOT/wave/#
"""

_BLOCKS: Final[dict[Role, str]] = {
    "host": "topic readwrite ROOT/#\n",
    # Calls devices, and reads states, replies and notices.
    "operator": (
        "topic read ROOT/device/+/state\ntopic read ROOT/device/+/reply\ntopic write ROOT/device/+/call\n"
        f"topic read ROOT/notice\n{_NO_FILES}"
    ),
    # Asks models under its own name, which ends a request's topic; a device's name ends the answer's.
    "client": f"topic write ROOT/device/+/infer/+/NAME\ntopic read ROOT/client/NAME/+\n{_NO_FILES}",
    # Discovers sensors and reads their values.
    "homeassistant": (
        "topic read homeassistant/#\ntopic read ROOT/device/+/state\ntopic read ROOT/device/+/answer/+\n"
        f"topic write ROOT/device/+/infer/+/NAME\n{_NO_FILES}"
    ),
    # A device that also passes its site's messages up, and calls and records down.
    "relay": (
        "topic write ROOT/relay/NAME\ntopic read ROOT/site/+\n"
        "topic read ROOT/device/+/call\ntopic write ROOT/device/+/reply\n"
    ),
}
#: The roles whose users have a block of their own; devices have the patterns.
BLOCK_ROLES: Final = tuple(_BLOCKS)


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one broker; its fleet is the rest.

    Attributes:
        names: host names and addresses by which devices reach it; the first is in their addresses.
        port: of the listener.
        seen_at: the configuration's folder as the broker sees it.
        user: the user as which Mosquitto runs, when root starts it.
    """

    names: tuple[str, ...]
    port: int = DEFAULT_PORT
    seen_at: str
    user: str


def mosquitto_conf(settings: BrokerSettings) -> str:
    """Return the text of mosquitto.conf."""
    at = settings.seen_at.rstrip("/")
    return f"""\
# The broker of a fleet, made by `edgeml fleet broker-config`, which writes it again: TLS only, a certificate for each
# client, rights by topic. Mosquitto 2.0 and 2.1 take it; 2.0.18 or newer is advised.
# Of root's Mosquitto this is the user; any other user runs it as itself.
user {settings.user}

listener {settings.port}
certfile {at}/broker.crt
keyfile {at}/broker.key
cafile {at}/device-ca.crt
require_certificate true
# The name in the certificate is the user, and the client id: no client can take another's.
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {at}/acl

# Revoked certificates. The broker looks for a newer list in the folder at each new connection; no signal is needed.
crlfile {at}/revoked.crl
capath {at}/revoked

# A line for each connection of thousands of devices would bury the others; set it to true to see who connects.
connection_messages false

# Retained metadata and queued commands survive a restart of the broker.
persistence true
persistence_location {at}/data/
autosave_interval 300
# The session of a device that never comes back.
persistent_client_expiration 14d

# Chunks are 64 KiB; a manifest has at most 8 MiB, and a packet 64 KiB more. Mosquitto tells its clients this limit, and
# the host skips a longer file.
max_packet_size {PACKET_MAX_BYTES}
# The host's session holds what devices report while it is away or busy; the broker drops more. A client that reads
# nothing can hold as many chunks of 64 KiB here.
max_queued_messages {QUEUED_MAX_MESSAGES}
max_inflight_messages 20
"""


def access_list(fleet: str, clients: Iterable[tuple[str, Role]], revoked: Iterable[str]) -> str:
    """Return the text of the access list.

    Args:
        fleet: the name in all topics.
        clients: names and roles of the users that have a block of their own.
        revoked: names that lose all rights.
    """
    root = f"{PROTOCOL}/{fleet}"
    blocks = [f"user {name}\n{_BLOCKS[role].replace('NAME', name)}" for name, role in clients]
    blocks += [f"user {name}\ntopic deny #\n" for name in revoked]
    head = "# Made by `edgeml fleet broker-config`: a block for each client, and the rights of devices.\n"
    return "\n".join((head, *blocks, _PATTERNS)).replace("ROOT", root)
