"""Brokers of other makers than `brokers`, on free loopback ports, open to everyone, for the time of a `with` block.

`rabbitmq` is Debian's package with its MQTT plugin, as a node of its own beside a name server of its own, or as a
cluster of them. `aedes` is the npm package, which the test cache keeps. Neither is configured for edgeml.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support import cache
from support.brokers import listens
from support.ports import free_port
from support.waiting import until

#: Seconds until a broker listens: RabbitMQ takes ten on a quiet computer. The limit only ends a test that would hang.
START_TIMEOUT_S: Final = 600.0
STOP_TIMEOUT_S: Final = 30.0
AEDES: Final = "aedes@1.2.0"
#: Where Debian has the programs themselves: the wrappers in the path change to another user.
RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: The end of a start in its log.
_STARTED: Final = "Starting broker... completed"
_AEDES_SERVER: Final = """
const { Aedes } = require('aedes');
(async () => {
  const broker = await Aedes.createBroker();
  require('net').createServer(broker.handle).listen(Number(process.argv[2]), '127.0.0.1');
})();
"""


@dataclass(frozen=True, kw_only=True)
class Rights:
    """Regular expressions of what a user may write and read; `{username}` stands for its name in routing keys.

    Attributes:
        write: the routing keys that it may write.
        read: the routing keys that it may read.
        queues: names of its queues, which have its client id; None permits all queues.
    """

    write: str
    read: str
    queues: str | None = None

    @property
    def resources(self) -> dict[str, str]:
        """Its rights to queues and exchanges."""
        if self.queues is None:
            return dict.fromkeys(("configure", "write", "read"), ".*")
        own = f"^({self.queues}|amq\\.topic)$"
        return {"configure": f"^{self.queues}$", "write": own, "read": own}


class Node:
    """A node of RabbitMQ; after `kill`, `start` brings it back with what it had on its disk.

    Args:
        folder: for its configuration, log and data.
        port: of its MQTT listener on loopback.
        environment: of its process.
    """

    def __init__(self, folder: Path, port: int, environment: Mapping[str, str]) -> None:
        self.port = port
        self._folder = folder
        self._environment = environment
        self._running = ExitStack()

    def start(self) -> None:
        """Start it, and return when it has its users: it listens some seconds before."""
        log = self._folder / "broker.log"
        before = log.read_text(errors="replace").count(_STARTED) if log.exists() else 0
        self._running.enter_context(_running([str(RABBITMQ)], log, self.port, self._environment))
        until(lambda: log.read_text(errors="replace").count(_STARTED) > before, "the node's users", START_TIMEOUT_S)

    def kill(self) -> None:
        """Send SIGKILL to the node itself, which isn't the process that was started."""
        name = self._environment["RABBITMQ_NODENAME"]
        os.kill(int((self._folder / "data" / f"{name}.pid").read_text()), signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it in order."""
        self._running.close()


@contextmanager
def rabbitmq(folder: Path, users: Mapping[str, Rights] | None = None) -> Iterator[str]:
    """Run RabbitMQ, and lend the address of its MQTT listener.

    Args:
        folder: for its configuration, log and data.
        users: have `NAME-secret` as passwords; without them everyone may do everything.
    """
    port = free_port()
    config = f"mqtt.allow_anonymous = {'false' if users else 'true'}\nloopback_users = none\n"
    with _nodes(folder, {port: f"mqtt.listeners.tcp.1 = 127.0.0.1:{port}\n{config}"}, _definitions(users or {})):
        yield f"mqtt://127.0.0.1:{port}"


@contextmanager
def certified_rabbitmq(
    folder: Path, ports: Sequence[int], files: Path, users: Mapping[str, Rights]
) -> Iterator[list[Node]]:
    """Run RabbitMQ with TLS: the name in a client's certificate is the user, and no user has a password.

    Args:
        folder: for its configuration, log and data.
        ports: of its listeners on loopback: one of each node.
        files: the folder of `edgeml fleet broker-config`.
        users: by name.
    """
    config = (
        "mqtt.listeners.tcp = none\nmqtt.ssl_cert_login = true\nmqtt.allow_anonymous = false\n"
        "ssl_cert_login_from = common_name\nauth_backends.1 = internal\n"
    )
    # The newest list of revoked certificates is read at each handshake, from the same files that OpenSSL reads.
    advanced = f"""\
[{{rabbit, [{{ssl_options, [
  {{cacertfile, "{files}/device-ca.crt"}}, {{certfile, "{files}/broker.crt"}}, {{keyfile, "{files}/broker.key"}},
  {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}, {{versions, ['tlsv1.3', 'tlsv1.2']}},
  {{reuse_sessions, false}},
  {{crl_check, peer}}, {{crl_cache, {{ssl_crl_hash_dir, {{internal, [{{dir, "{files}/revoked"}}]}}}}}}
]}}]}}].
"""
    configs = {port: f"mqtt.listeners.ssl.1 = 127.0.0.1:{port}\n{config}" for port in ports}
    with _nodes(folder, configs, _definitions(users, has_passwords=False), advanced) as nodes:
        yield nodes


@contextmanager
def _nodes(
    folder: Path, configs: Mapping[int, str], definitions: Mapping[str, object], advanced: str = "[]."
) -> Iterator[list[Node]]:
    """Run a node for each port until the end of the block; several are a cluster, each with a folder of its own."""
    if not RABBITMQ.exists():
        raise RuntimeError("this test needs the broker: apt-get install rabbitmq-server")
    folder.mkdir(parents=True, exist_ok=True)
    names, cluster = free_port(), _cluster(configs)
    # Its name server would be a daemon that outlives the nodes.
    with ExitStack() as running:
        epmd = [_program("epmd"), "-port", str(names)]
        environment = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/usr/bin:/bin",
            # Nodes with the same home have the same cookie.
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        running.enter_context(_running(epmd, folder / "names.log", names, environment))
        nodes = []
        for port, config in configs.items():
            own = folder / str(port)
            nodes.append(Node(own, port, environment | _written(own, port, config + cluster, definitions, advanced)))
            running.callback(nodes[-1].stop)
            nodes[-1].start()
        yield nodes


def _cluster(ports: Iterable[int]) -> str:
    """Return the settings of the nodes of a cluster; none for a single one."""
    names = [f"cluster_formation.classic_config.nodes.{port} = {_name(port)}\n" for port in ports]
    settings = "cluster_partition_handling = pause_minority\nmqtt.durable_queue_type = quorum\n"
    return "".join(names) + settings if len(names) > 1 else ""


def _name(port: int) -> str:
    return f"edgeml-{port}@localhost"


def _written(folder: Path, port: int, config: str, definitions: Mapping[str, object], advanced: str) -> dict[str, str]:
    """Write a node's files, and return the variables that name them."""
    folder.mkdir()
    if definitions:
        config += f"load_definitions = {folder}/definitions.json\n"
        (folder / "definitions.json").write_text(json.dumps(definitions))
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{free_port()}\n{config}")
    (folder / "advanced.config").write_text(advanced)
    (folder / "plugins").write_text("[rabbitmq_mqtt].\n")
    return {
        "RABBITMQ_NODENAME": _name(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }


def _definitions(users: Mapping[str, Rights], *, has_passwords: bool = True) -> dict[str, object]:
    """RabbitMQ's form of users and rights; empty without users, so that it keeps its own."""
    if not users:
        return {}
    salt = b"salt"

    def hashed(name: str) -> str:
        return base64.b64encode(salt + hashlib.sha256(salt + f"{name}-secret".encode()).digest()).decode()

    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": name,
                "password_hash": hashed(name) if has_passwords else "",
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for name in users
        ],
        "permissions": [{"user": name, "vhost": "/", **it.resources} for name, it in users.items()],
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
