"""The host's own certificates at a broker that asks for them: as the host, and as those that call devices."""

from __future__ import annotations

from pathlib import Path

from edgeml.fleet.link import Broker
from edgeml.repository import RepositoryFolder, broker_config, client_certificates, layout, opened
from edgeml.repository.certificates import Role
from edgeml.repository.device_ca import BROKER_CA
from edgeml_core.broker import BrokerUrl


def is_needed(given: Broker) -> bool:
    """Return whether an address takes a certificate, and none is given: it is `mqtts`, without a user and files."""
    has_files = any((given.password_file, given.ca, given.cert, given.key))
    return given.url.tls and given.url.username is None and not has_files


def broker(
    repository: RepositoryFolder | Path,
    url: BrokerUrl,
    name: str = broker_config.HOST_NAME,
    nodes: tuple[BrokerUrl, ...] = (),
) -> Broker:
    """Return a broker's address with a certificate of the repository, issued when due, and its authority.

    Raises:
        UsageError: `repo-invalid`, also when the authority's key is locked.
    """
    if isinstance(repository, Path):
        repository = opened(repository)
    role: Role = "host" if name == broker_config.HOST_NAME else "operator"
    certificate = client_certificates.own_certificate(repository, name, role, layout.utc_now())
    return Broker(url=url, ca=repository.authorities.path(BROKER_CA), cert=certificate, nodes=nodes)


def to_call(repository: RepositoryFolder, given: Broker, name: str) -> Broker:
    """Return the host's broker as its calls reach it: with a certificate of the repository, under a name of their own.

    There a second connection under the host's name would end the running one. At any other broker they have its user.

    Raises:
        UsageError: as `broker`.
    """
    if given.cert is None or given.ca != repository.authorities.path(BROKER_CA):
        return given
    return broker(repository, given.url, name)
