"""Clients with a broker account but no keys: unknown clients, or a compromised device.

Host and device drop or refuse their messages. Afterwards an update arrives, and the registry has enrolled devices only.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import paho.mqtt.client as paho
import pytest
import zstandard

from edgeml.fleet.registry import Registry
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import messages, relay_batch
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_core.relay_batch import RelayedMessage
from faults import campaign
from faults.fleet import FLEET, Fleet, fleet, until
from support import paho_clients
from support.delivery_site import Observer

TOPICS: Final = Topics(FLEET)
FLOOD_MESSAGES: Final = 300
#: Ids that would lead elsewhere in a topic or a path.
BAD_IDS: Final = ("board-9", "../../etc", "+", "#", "board-1/state", "a\0b", "", "x" * 10_000, "$SYS")
FORGED: Final = DeviceState(online=True, session=1, agent="forged")


@dataclass(frozen=True)
class Scene:
    """A fleet, and an unknown client that may subscribe and publish everywhere."""

    made: Fleet
    client: Observer

    def send(self, topic: str, payload: bytes) -> None:
        """Publish a message."""
        self.client.publish(topic, payload)

    def listed(self) -> list[str]:
        """Ids of chunks that the host would answer for."""
        folder = self.made.repo / "chunks"
        return [path.name[:32] for path in folder.rglob("*") if path.is_file()]

    def agent_logs(self, text: str, since: int) -> None:
        """Wait until the agent has logged a text."""
        until(lambda: text in self.made.device.log.read_text()[since:], f"the agent logs {text}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One device, for all clients."""
    with fleet(tmp_path_factory.mktemp("unknown")) as made:
        client = Observer(made.broker.port)
        try:
            yield Scene(made, client)
        finally:
            client.close()


def wants_of_unknown_devices(scene: Scene) -> None:
    """Request chunks that exist: nothing is published."""
    since = len(scene.client.heard)
    for number in range(FLOOD_MESSAGES):
        scene.send(TOPICS.want(f"stranger-{number}"), messages.encode(Want(keys=tuple(scene.listed()))))
    assert scene.client.chunks(since) == []


def a_flood_of_wants(scene: Scene) -> None:
    """Request one chunk again and again in a device's name: it is published a few times a second."""
    since, keys = len(scene.client.heard), tuple(scene.listed()[:1])
    for _ in range(FLOOD_MESSAGES):
        scene.send(TOPICS.want(scene.made.device.name), messages.encode(Want(keys=keys)))
    until(lambda: scene.client.chunks(since), "the chunk comes")
    assert len(scene.client.chunks(since)) < FLOOD_MESSAGES / 4


def wants_for_unknown_chunks(scene: Scene) -> None:
    """Request unknown and malformed ids."""
    since = len(scene.client.heard)
    bad = ("../../keys/releases", "+", "#", "a\0b", f"{'0' * 32}/../x", "x" * 1000)
    scene.send(TOPICS.want(scene.made.device.name), messages.encode(Want(keys=(*bad, *unknown_ids(200)))))
    assert scene.client.chunks(since) == []


def malformed_messages(scene: Scene) -> None:
    """Send them on each topic that the host subscribes to."""
    device = scene.made.device.name
    for topic in (TOPICS.want(device), TOPICS.state(device), TOPICS.report(device), TOPICS.relay(device)):
        for payload in (b"{", b"[" * 50_000, b"\xff\xfe", b"null", b'{"keys": 7}', bytes(70_000), b"{}"):
            scene.send(topic, payload)


def ids_that_lead_elsewhere(scene: Scene) -> None:
    """Send states of devices that aren't enrolled, in a relay's payload and in topics."""
    batch = [RelayedMessage(device=name, state=FORGED) for name in BAD_IDS]
    scene.send(TOPICS.relay(scene.made.device.name), *relay_batch.pack(batch))
    for name in ("stranger", "%2e%2e", " ", "a b", "BOARD-1"):
        scene.send(TOPICS.state(name), messages.encode(FORGED))
        scene.send(f"{TOPICS.root}/device/{name}/state/more", messages.encode(FORGED))


def a_relay_that_speaks_for_others(scene: Scene) -> None:
    """Send as a relay, in the name of a device without a label `site`."""
    report = Report(deployment="forged", name="tiny", version="9.0", state="active", session=1)
    batch = [
        RelayedMessage(device=scene.made.device.name, state=FORGED),
        RelayedMessage(device="board-1", report=report),
    ]
    scene.send(TOPICS.relay(scene.made.device.name), *relay_batch.pack(batch))


def bombs_for_the_host(scene: Scene) -> None:
    """Send a relay's message that unpacks to 64 MB, with and without its size in the header."""
    bomb = bytes(64 * 1024**2)
    scene.send(TOPICS.relay(scene.made.device.name), zstandard.ZstdCompressor().compress(bomb))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bomb)
    scene.send(TOPICS.relay(scene.made.device.name), unsized)


def a_late_will(scene: Scene) -> None:
    """Send the will of an earlier session: the device stays online."""
    will = DeviceState(online=False, session=0)
    scene.send(TOPICS.state(scene.made.device.name), messages.encode(will))


def forged_calls(scene: Scene) -> None:
    """Send calls of an unknown kind, of another session, malformed, and too many."""
    since, topic = len(scene.made.device.log.read_text()), TOPICS.call(scene.made.device.name)
    call = {"id": "0" * 32, "session": 10**6, "kind": "verify", "manifest_sha256": "f" * 64}
    for changes in ({"kind": "run"}, {"command": "reboot"}, {"manifest_sha256": "../x"}, {"session": -1}):
        scene.send(topic, json.dumps(call | changes).encode())
    heard = len(scene.client.heard)
    for _ in range(FLOOD_MESSAGES):
        scene.send(topic, json.dumps(call).encode())
    scene.agent_logs("call malformed", since)
    assert TOPICS.reply(scene.made.device.name) not in [at for at, _ in scene.client.heard[heard:]]


def a_client_id_taken_over(scene: Scene) -> None:
    """Take over the device's client id, as a broker allows without use_username_as_clientid: the device reconnects."""
    since = len(scene.made.device.log.read_text())
    other = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"edgeml-{FLEET}-{scene.made.device.name}")
    other.connect("127.0.0.1", scene.made.broker.port)
    other.loop_start()
    scene.agent_logs("disconnected", since)
    paho_clients.leave(other)
    scene.agent_logs("connected broker", since)


def unknown_ids(count: int) -> tuple[str, ...]:
    """Return ids of unknown chunks."""
    return tuple(secrets.token_hex(16) for _ in range(count))


ATTACKS: Final[tuple[Callable[[Scene], None], ...]] = (
    wants_of_unknown_devices,
    a_flood_of_wants,
    wants_for_unknown_chunks,
    malformed_messages,
    ids_that_lead_elsewhere,
    a_relay_that_speaks_for_others,
    bombs_for_the_host,
    a_late_will,
    forged_calls,
    a_client_id_taken_over,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_fleet_under_attack_by_unknown_client_goes_on(scene: Scene, attack: Callable[[Scene], None]) -> None:
    """The host keeps running, the registry stays right, and the next version arrives."""
    host = scene.made.host
    attack(scene)
    scene.made.deploy(version := scene.made.release())
    scene.made.converges(version)
    scene.made.audit()
    assert host is not None
    assert host.lives
    until(lambda: seen(scene) == {scene.made.device.name: True}, "the registry has the device, and it is online")
    campaign.count("attacks of unknown clients dropped or refused")


def seen(scene: Scene) -> dict[str, bool]:
    """Return the devices in the registry, and whether they report that they are online."""
    registry = Registry(scene.made.repo / DATABASE_FILE)
    try:
        devices = registry.devices()
    finally:
        registry.close()
    assert all(it.state.agent != FORGED.agent for it in devices.values())
    return {name: it.state.online for name, it in devices.items()}
