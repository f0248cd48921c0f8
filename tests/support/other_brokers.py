"""Brokers of other makers than `brokers`, on free loopback ports, open to everyone, for the time of a `with` block.

`rabbitmq` is Debian's package with its MQTT plugin, as a node of its own beside a name server of its own. `aedes` is
the npm package, which the test cache keeps. Neither is configured for edgeml.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support import cache
from support.brokers import listens
from support.ports import free_port

#: Seconds until a broker listens: RabbitMQ takes ten on a quiet computer. The limit only ends a test that would hang.
START_TIMEOUT_S: Final = 600.0
STOP_TIMEOUT_S: Final = 30.0
AEDES: Final = "aedes@1.2.0"
#: Where Debian has the programs themselves: the wrappers in the path change to another user.
RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_AEDES_SERVER: Final = """
const { Aedes } = require('aedes');
(async () => {
  const broker = await Aedes.createBroker();
  require('net').createServer(broker.handle).listen(Number(process.argv[2]), '127.0.0.1');
})();
"""


@dataclass(frozen=True, kw_only=True)
class Rights:
    """Regular expressions of the routing keys that a user may write and read; `{username}` stands for its name."""

    write: str
    read: str


@contextmanager
def rabbitmq(folder: Path, users: Mapping[str, Rights] | None = None) -> Iterator[str]:
    """Run RabbitMQ, and lend the address of its MQTT listener.

    Args:
        folder: for its configuration, log and data.
        users: have `NAME-secret` as passwords; without them everyone may do everything.
    """
    if not RABBITMQ.exists():
        raise RuntimeError("this test needs the broker: apt-get install rabbitmq-server")
    folder.mkdir(parents=True, exist_ok=True)
    amqp, mqtt, names, distribution = (free_port() for _ in range(4))
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{amqp}\nmqtt.listeners.tcp.1 = 127.0.0.1:{mqtt}\n"
        f"mqtt.allow_anonymous = {'false' if users else 'true'}\nloopback_users = none\n"
        + (f"load_definitions = {folder}/definitions.json\n" if users else "")
    )
    (folder / "definitions.json").write_text(json.dumps(_definitions(users or {})))
    (folder / "plugins").write_text("[rabbitmq_mqtt].\n")
    environment = {
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/usr/bin:/bin",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"edgeml-{mqtt}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }
    # Its name server would be a daemon that outlives the node.
    with (
        _running([_program("epmd"), "-port", str(names)], folder / "names.log", names, environment),
        _running([str(RABBITMQ)], folder / "broker.log", mqtt, environment),
    ):
        yield f"mqtt://127.0.0.1:{mqtt}"


def _definitions(users: Mapping[str, Rights]) -> dict[str, object]:
    """RabbitMQ's form of users and rights: all may use queues, and each the keys of its rights."""
    salt = b"salt"

    def hashed(name: str) -> str:
        return base64.b64encode(salt + hashlib.sha256(salt + f"{name}-secret".encode()).digest()).decode()

    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": name,
                "password_hash": hashed(name),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for name in users
        ],
        "permissions": [{"user": it, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"} for it in users],
        "topic_permissions": [
            {"user": name, "vhost": "/", "exchange": "amq.topic", "write": it.write, "read": it.read}
            for name, it in users.items()
        ],
    }


@contextmanager
def aedes(folder: Path) -> Iterator[str]:
    """Run aedes, and lend its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()

    def install(place: Path) -> None:
        command = [_program("npm"), "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(place), AEDES]
        subprocess.run(command, check=True, cwd=place)

    with cache.kept("aedes", install, [Path(__file__)]) as place:
        (folder / "server.js").write_text(_AEDES_SERVER)
        environment = {**os.environ, "NODE_PATH": str(place / "node_modules")}
        command = [_program("node"), str(folder / "server.js"), str(port)]
        with _running(command, folder / "broker.log", port, environment):
            yield f"mqtt://127.0.0.1:{port}"


@contextmanager
def _running(command: Sequence[str], log: Path, port: int, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a process from when it listens on a port; at the end it is terminated, and at last killed."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent, env=environment)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} didn't start: {log.read_text(errors='replace')}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def _program(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise RuntimeError(f"this test needs the program {name}")
    return program
