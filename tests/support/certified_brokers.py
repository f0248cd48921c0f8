"""Brokers of a repository's fleet: TLS, a certificate for each client, rights by topic, lists of revoked certificates.

Both read the folder that `edgeml fleet broker-config` writes. RabbitMQ has its access list as regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeml.repository import Repository, broker_config
from edgeml.repository.certificates import Role
from support import brokers, other_brokers
from support.other_brokers import Node, Rights

#: Hosts of TLS: the name in the broker's certificate.
HOST: Final = "localhost"


@contextmanager
def mosquitto(repository: Repository, port: int, folder: Path, _users: Mapping[str, Role]) -> Iterator[None]:
    """Run Mosquitto by the configuration as it was written."""
    folder.mkdir()
    # The test's own lines replace these: its process is root's, and listens on loopback alone.
    written = (_configured(repository, port, folder) / "mosquitto.conf").read_text()
    broker = brokers.Mosquitto(folder, port, openssl_conf=folder / "config" / "openssl.cnf")
    changed = re.sub(r"(?m)^user .*$", "user root", written)
    (folder / "mosquitto.conf").write_text(re.sub(r"(?m)^listener .*$", f"listener {port} 127.0.0.1", changed))
    broker.start()
    try:
        yield
    finally:
        broker.stop()


@contextmanager
def rabbitmq(repository: Repository, port: int, folder: Path, users: Mapping[str, Role]) -> Iterator[None]:
    """Run RabbitMQ with the same files, as docs/compatibility.md describes it."""
    with rabbitmq_cluster(repository, [port], folder, users):
        yield


@contextmanager
def rabbitmq_cluster(
    repository: Repository, ports: Sequence[int], folder: Path, users: Mapping[str, Role]
) -> Iterator[list[Node]]:
    """Run a node of RabbitMQ for each port, as docs/compatibility.md describes it; devices are told the first port."""
    files = _configured(repository, ports[0], folder)
    clients = [(name, role) for name, role in users.items() if role != "device"]
    text = broker_config.access_list(repository.fleet_name, clients, [])
    ids = {name: f"edgeml-{repository.fleet_name}-{name}" for name in users}
    # A client id names the queue, so that it decides whose messages wait there.
    ids[broker_config.HOST_NAME] = f"edgeml-host-{repository.fleet_name}-[^-]+"
    rights = {name: replace(rights_of(text, name), queues=f"mqtt-subscription-{ids[name]}qos[01]") for name in users}
    with other_brokers.certified_rabbitmq(folder, ports, files, rights) as nodes:
        yield nodes


def _configured(repository: Repository, port: int, folder: Path) -> Path:
    repository.configure_broker(folder / "config", HOST, port=port)
    return folder / "config"


def rights_of(access_list: str, user: str) -> Rights:
    """Return a user's rights of an access list as regular expressions: its own block, and the patterns."""
    rules: dict[str, list[str]] = {"read": [], "write": [], "deny": []}
    block = ""
    for line in access_list.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "user":
            block = rest
        elif kind == "pattern" or (kind == "topic" and block == user):
            access, _, topics = rest.partition(" ")
            for it in ("read", "write") if access == "readwrite" else (access,):
                rules[it].append(_expression(topics.replace("%u", user)))
    denied = f"(?!({'|'.join(rules['deny'])})$)" if rules["deny"] else ""
    return Rights(**{it: f"^{denied}({'|'.join(rules[it])})$" for it in ("write", "read")})


def _expression(topics: str) -> str:
    """Return the regular expression of the routing keys, and of the filters, that one of MQTT's filters covers."""
    levels = {"+": r"[^.#]+", "#": ".+"}
    return r"\.".join(levels.get(it) or re.escape(it) for it in topics.split("/"))
