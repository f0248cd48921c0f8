"""The part of `Repository` about the broker and its clients: tokens, a broker's configuration, certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from edgeml.repository import broker_config, broker_folder, client_certificates, layout, tokens
from edgeml.repository.broker_folder import BrokerFiles
from edgeml.repository.certificates import ClientRole
from edgeml.repository.client_certificates import ClientFiles
from edgeml.repository.tokens import Tokens


class ClientAccess:
    """The methods of a repository in the folder `path`."""

    path: Path

    def make_tokens(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        groups: Sequence[str] = (),
        count: int = 1,
        life: timedelta = tokens.LIFE_DEFAULT,
        device: str | None = None,
    ) -> Tokens:
        """Make tokens with which devices enroll themselves; each works once.

        Args:
            labels: signed for each device that enrolls.
            groups: the devices get their keys.
            count: the number of tokens.
            life: until they expire.
            device: the only id that may use it, also when it is enrolled already.

        Raises:
            UsageError: `usage`, for a bad number, time or name; `repo-invalid`.

        >>> len(Repository.open("farms").make_tokens(labels={"site": "farm-7"}, count=3).tokens)
        3
        """
        folder, now = layout.opened(self.path), layout.utc_now()
        pairs = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        with folder.locked():
            details = {"count": count, "life_s": life.total_seconds(), "labels": pairs, "groups": ",".join(groups)}
            folder.audit.append("token", device or "any", details, now=now)
            return tokens.make(
                folder, now=now, labels=labels or {}, groups=groups, count=count, life=life, device=device or ""
            )

    def configure_broker(
        self, output: Path | str, *hosts: str, port: int = broker_config.DEFAULT_PORT, seen_at: str | None = None
    ) -> BrokerFiles:
        """Write a complete configuration for Mosquitto. Later changes of clients and certificates write it again.

        Devices are enrolled with the first broker's address, until `forget_broker` for its folder.

        Args:
            output: the folder.
            hosts: names and addresses by which devices reach the broker; the first is the one in their settings.
            port: of the broker.
            seen_at: the folder as the broker sees it; None is `output`.

        Raises:
            UsageError: `usage`, for a bad name or a folder that can't be written; `repo-invalid`.

        >>> Repository.open("farms").configure_broker("broker", "broker.example").url
        'mqtts://broker.example:8883'
        """
        folder = layout.opened(self.path)
        with folder.locked():
            settings = broker_folder.write(folder, Path(output), hosts, layout.utc_now(), port=port, seen_at=seen_at)
            default_url = folder.enrollments.address("broker") or ""
        conf = f"{settings.seen_at}/{broker_folder.CONF_FILE}"
        url = broker_folder.address(settings)
        return BrokerFiles(url=url, default_url=default_url, conf=conf, user=settings.user)

    def forget_broker(self, output: Path | str) -> None:
        """Write a broker's folder no more, and tell of it no more: it was removed, or is another's.

        Args:
            output: the folder, as `configure_broker` had it; it needn't be there.

        Raises:
            UsageError: `usage`, when no broker of this repository has the folder; `repo-invalid`.

        >>> Repository.open("farms").forget_broker("broker")
        """
        folder = layout.opened(self.path)
        with folder.locked():
            broker_folder.forget(folder, Path(output))

    def certify_client(self, name: str, *, role: ClientRole, output: Path | str) -> ClientFiles:
        """Write a key with a certificate for a client of the broker that is no device.

        Args:
            name: the client's, by which the broker knows it.
            role: `operator`, `client` or `homeassistant`.
            output: the folder.

        Raises:
            UsageError: `usage`, when the name is taken or malformed, or `output` can't be written; `repo-invalid`.

        >>> Repository.open("farms").certify_client("alice", role="operator", output="alice").certificate
        'alice/alice.pem'
        """
        folder = layout.opened(self.path)
        now = layout.utc_now()
        with folder.locked():
            folder.audit.append("client-cert", name, {"role": role}, now=now)
            return client_certificates.write_client(folder, name, role, Path(output), now)
