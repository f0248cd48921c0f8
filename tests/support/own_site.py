"""`edgeml fleet serve --with-broker` in a thread of the test's process, with its events; and clients of its broker."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as paho

from edgeml.fleet.fleet import Fleet
from edgeml.repository import Repository, RepositoryFolder, client_certificates, layout
from edgeml.repository.certificates import Role
from support import paho_clients
from support.ports import free_port
from support.waiting import TIMEOUT_S, until


@dataclass
class OwnSite:
    """A running service; `events` are those so far, as names with their fields."""

    repository: Repository
    port: int
    enroll_port: int
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def event(self, name: str, text: str, **fields: object) -> None:
        """See `Events.event`."""
        self.events.append((name, {"text": text, **fields}))

    def seen(self, name: str, **fields: object) -> bool:
        """Return whether an event has come with these fields."""
        return any(it == name and fields.items() <= given.items() for it, given in self.events)

    def count(self, name: str) -> int:
        """Count the events of a name."""
        return sum(it == name for it, _ in self.events)

    @property
    def url(self) -> str:
        """Where devices enroll."""
        return f"https://localhost:{self.enroll_port}"

    @property
    def folder(self) -> RepositoryFolder:
        """The repository, opened."""
        return layout.opened(self.repository.path)

    @property
    def authority(self) -> Path:
        """The broker's authority."""
        return self.repository.path / "authorities" / "broker-ca.crt"

    def certify(self, name: str, role: Role, path: Path, now: datetime | None = None) -> Path:
        """Write a certificate for a name and a role to a file."""
        folder = self.folder
        with folder.locked():
            path.write_bytes(client_certificates.issue_with_key(folder, name, role, now or datetime.now(UTC)))
        return path


@contextmanager
def own_site(repo: Path, **more: object) -> Iterator[OwnSite]:
    """Serve a new repository with its own broker on free ports; `more` is for `Fleet.serve_async`."""
    site = OwnSite(Repository.init(repo, passphrase=""), free_port(), free_port())
    loop, failures = asyncio.new_event_loop(), []

    async def serve() -> None:
        names = {"with_broker": f"localhost:{site.port}", "enroll": f"localhost:{site.enroll_port}"}
        try:
            await Fleet(site.repository).serve_async(site, **names, **more)
        except Exception as error:
            failures.append(error)
            raise

    task = loop.create_task(serve())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    thread.start()
    try:
        until(lambda: failures or (site.seen("announced") and site.seen("enrollment")), "the service runs")
        assert not failures, failures
        yield site
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(TIMEOUT_S)
        loop.close()


class CertifiedClient:
    """A client with a certificate: messages, refusals and losses of its connection, as they come."""

    def __init__(self, site: OwnSite, certificate: Path) -> None:
        self.heard: list[str] = []
        self.is_up = False
        self.failures = 0
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, certificate.stem, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=site.authority)
        context.load_cert_chain(certificate)
        self.client.tls_set_context(context)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._connected
        self.client.on_disconnect = self._disconnected
        self.client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self.client.connect_async("localhost", site.port)
        self.client.loop_start()

    def _connected(self, _client: object, _data: object, _flags: object, reason: object, _properties: object) -> None:
        self.is_up = not reason.is_failure

    def _disconnected(self, *_given: object) -> None:
        self.is_up = False
        self.failures += 1

    def publish(self, topic: str) -> int:
        """Publish an empty message with QoS 1, and return the broker's reason code."""
        reasons = []
        self.client.on_publish = lambda _client, _data, _mid, reason, _properties: reasons.append(reason.value)
        self.client.publish(topic, b"", qos=1)
        until(lambda: reasons, "the broker answers")
        return reasons[0]

    def hears(self, topic: str) -> bool:
        """Return whether a message to a topic comes back; one on the way that is permitted comes after it."""
        before = len(self.heard)
        self.client.subscribe(topic, qos=1)
        self.publish(topic)
        self.publish(topic)
        return topic in self.heard[before:]

    def close(self) -> None:
        """End."""
        paho_clients.leave(self.client)
