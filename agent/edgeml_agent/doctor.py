"""What of this machine would keep the agent from working, and the remedy: `edgeml-agent doctor`.

The checks that a host needs too are `edgeml_runtime.checkup`'s. Looks and reports; changes nothing here.
"""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeml_agent.settings import BrokerSettings, Settings
from edgeml_runtime import checkup
from edgeml_runtime.checkup import Check, python_problem

#: Boards throttle from 80 to 85 degrees Celsius.
HOT_CELSIUS: Final = 80.0
CONNECT_TIMEOUT_S: Final = 5
#: What the agent must never load: training libraries and the host's command line.
HOST_LIBRARIES: Final = ("torch", "transformers", "onnx", "optimum", "click")
#: MQTT 3.1.1, section 3.2.2.3.
_CONNACK: Final = {
    1: "it doesn't speak MQTT 3.1.1",
    2: "it refuses the client id",
    3: "it is not available",
    4: "it refuses the user name or password",
    5: "it doesn't authorize this device",
}


def run(settings: Settings | None) -> tuple[Check, ...]:
    """Look at everything; without settings, at all that needs none. No check can fail the others."""
    return tuple(_checks(settings))


def _checks(settings: Settings | None) -> Iterator[Check]:
    yield from checkup.machine()
    yield checkup.disk(settings.store.dir if settings else Path())
    yield purity()
    yield heat(Path("/sys/class/thermal"))
    if settings:
        yield broker(settings.broker)


def purity() -> Check:
    """Whether the agent's own code stays free of training libraries."""
    code = (
        "import sys, edgeml_agent.agent, edgeml_agent.serve.app;"
        f"loaded = sys.modules.keys() & {set(HOST_LIBRARIES)!r};"
        "sys.exit('it loads ' + ', '.join(sorted(loaded)) if loaded else 0)"
    )
    problem = python_problem(code)
    if problem is None:
        return Check("imports", "ok", "the agent loads no training library")
    return Check("imports", "failed", f"importing the agent {problem}", "reinstall edgeml in a fresh environment")


def heat(zones: Path) -> Check:
    """The hottest sensor below `zones`, where there is one."""
    celsius = max((value for path in zones.glob("thermal_zone*/temp") if (value := _celsius(path))), default=None)
    if celsius is None:
        return Check("temperature", "ok", "can't be read here")
    if celsius >= HOT_CELSIUS:
        return Check("temperature", "warning", f"{celsius:.0f} C", "cool the board: it slows down when it is this hot")
    return Check("temperature", "ok", f"{celsius:.0f} C")


def broker(settings: BrokerSettings) -> Check:
    """Whether the MQTT broker answers and lets this device in."""
    try:
        code = _connect(settings)
    except (OSError, ValueError) as error:
        remedy = "check [broker] url and, with mqtts, ca, cert and key; is the broker running?"
        return Check("broker", "failed", f"{settings.url}: {error}", remedy)
    if code != 0:
        reason = _CONNACK.get(code, "it doesn't answer as an MQTT broker")
        return Check("broker", "failed", f"{settings.url}: {reason}", "check the credentials and the port in [broker]")
    return Check("broker", "ok", f"{settings.url} lets this device in")


def _connect(settings: BrokerSettings) -> int:
    """The code of the broker's answer to a CONNECT; -1 for no MQTT answer."""
    url = settings.url
    with socket.create_connection((url.host, url.port), CONNECT_TIMEOUT_S) as plain:
        link = _tls(settings).wrap_socket(plain, server_hostname=url.host) if url.tls else plain
        with link:
            link.sendall(_connect_packet(url.username, url.password))
            answer = link.recv(4)
            link.sendall(b"\xe0\x00")  # DISCONNECT, so that no will is sent
    return answer[3] if len(answer) == 4 and answer[:2] == b"\x20\x02" else -1


def _tls(settings: BrokerSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca)
    if settings.cert:
        context.load_cert_chain(settings.cert, settings.key)
    return context


def _connect_packet(username: str | None, password: str | None) -> bytes:
    """An MQTT 3.1.1 CONNECT. The session isn't cleaned: a broker that names clients by user would wipe the agent's."""
    given = [text for text in (username, password) if text is not None]
    flags = (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    fields = [f"doctor-{secrets.token_hex(4)}", *given]
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + b"\x00\x0a"
    body += b"".join(len(data).to_bytes(2, "big") + data for data in (field.encode() for field in fields))
    low, high = len(body) % 128, len(body) // 128
    return b"\x10" + (bytes([low | 0x80, high]) if high else bytes([low])) + body


def _celsius(path: Path) -> float | None:
    """A sensor's reading, which Linux gives in thousandths; None for one that can't be read."""
    try:
        return int(path.read_text()) / 1000
    except (OSError, ValueError):
        return None
