"""Whoever may publish on the broker, and nothing more: other people's clients, or a device that was taken over.

What they send to the host and to a device is dropped by its rule or refused with its code; afterwards an update
arrives, and nobody is in the registry who isn't enrolled.
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

from edgeml.fleet.registry import DATABASE_FILE, Registry
from edgeml_core import messages, relay_batch
from edgeml_core.messages import DeviceState, Report, Topics, Want
from edgeml_core.relay_batch import RelayedMessage
from faults import campaign
from faults.world import FLEET, World, until, world
from support.delivery_site import Observer

TOPICS: Final = Topics(FLEET)
FLOOD_MESSAGES: Final = 300
#: What would lead elsewhere in a topic or a path.
BAD_IDS: Final = ("board-9", "../../etc", "+", "#", "board-1/state", "a\0b", "", "x" * 10_000, "$SYS")
FORGED: Final = DeviceState(online=True, session=1, agent="forged")


@dataclass(frozen=True)
class Scene:
    """A fleet, and a stranger who hears and may say everything."""

    made: World
    stranger: Observer

    def say(self, topic: str, payload: bytes) -> None:
        """Publish something."""
        self.stranger.publish(topic, payload)

    def listed(self) -> list[str]:
        """Ids of chunks that the host would answer for."""
        folder = self.made.repo / "chunks"
        return [path.name[:32] for path in folder.rglob("*") if path.is_file()]

    def agent_logs(self, text: str, since: int) -> None:
        """The agent comes to log something."""
        until(lambda: text in self.made.device.log.read_text()[since:], f"the agent logs {text}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One device, for all strangers."""
    with world(tmp_path_factory.mktemp("strangers")) as made:
        stranger = Observer(made.broker.port)
        try:
            yield Scene(made, stranger)
        finally:
            stranger.close()


def wants_of_unknown_devices(scene: Scene) -> None:
    """For chunks that exist: nothing is published."""
    since = len(scene.stranger.heard)
    for number in range(FLOOD_MESSAGES):
        scene.say(TOPICS.want(f"stranger-{number}"), messages.encode(Want(keys=tuple(scene.listed()))))
    assert scene.stranger.chunks(since) == []


def a_flood_of_wants(scene: Scene) -> None:
    """In a device's name, for one chunk again and again: it is published a few times a second, for all together."""
    since, keys = len(scene.stranger.heard), tuple(scene.listed()[:1])
    for _ in range(FLOOD_MESSAGES):
        scene.say(TOPICS.want(scene.made.device.name), messages.encode(Want(keys=keys)))
    until(lambda: scene.stranger.chunks(since), "the chunk comes")
    assert len(scene.stranger.chunks(since)) < FLOOD_MESSAGES / 4


def wants_for_what_nobody_released(scene: Scene) -> None:
    """Unknown ids, and what is none."""
    since = len(scene.stranger.heard)
    bad = ("../../keys/releases", "+", "#", "a\0b", f"{'0' * 32}/../x", "x" * 1000)
    scene.say(TOPICS.want(scene.made.device.name), messages.encode(Want(keys=(*bad, *unknown_ids(200)))))
    assert scene.stranger.chunks(since) == []


def malformed_messages(scene: Scene) -> None:
    """On each topic that the host hears."""
    device = scene.made.device.name
    for topic in (TOPICS.want(device), TOPICS.state(device), TOPICS.report(device), TOPICS.relay(device)):
        for payload in (b"{", b"[" * 50_000, b"\xff\xfe", b"null", b'{"keys": 7}', bytes(70_000), b"{}"):
            scene.say(topic, payload)


def ids_that_lead_elsewhere(scene: Scene) -> None:
    """In a relay's payload, and in topics: of nobody who is enrolled."""
    sayings = [RelayedMessage(device=name, state=FORGED) for name in BAD_IDS]
    scene.say(TOPICS.relay(scene.made.device.name), relay_batch.pack(sayings))
    for name in ("stranger", "%2e%2e", " ", "a b", "BOARD-1"):
        scene.say(TOPICS.state(name), messages.encode(FORGED))
        scene.say(f"{TOPICS.root}/device/{name}/state/more", messages.encode(FORGED))


def a_relay_that_speaks_for_others(scene: Scene) -> None:
    """A device without a label `site` relays for nobody, not even for itself."""
    report = Report(deployment="forged", name="tiny", version="9.0", state="active", session=1)
    sayings = [
        RelayedMessage(device=scene.made.device.name, state=FORGED),
        RelayedMessage(device="board-1", report=report),
    ]
    scene.say(TOPICS.relay(scene.made.device.name), relay_batch.pack(sayings))


def bombs_for_the_host(scene: Scene) -> None:
    """A relay's message that unpacks to 64 MB, with its size said and unsaid."""
    bomb = bytes(64 * 1024**2)
    scene.say(TOPICS.relay(scene.made.device.name), zstandard.ZstdCompressor().compress(bomb))
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(bomb)
    scene.say(TOPICS.relay(scene.made.device.name), unsaid)


def a_late_will(scene: Scene) -> None:
    """Of a session before this one: the device stays online."""
    will = DeviceState(online=False, session=0)
    scene.say(TOPICS.state(scene.made.device.name), messages.encode(will))


def forged_calls(scene: Scene) -> None:
    """Of an unknown kind, of another session, malformed, and too many."""
    since, topic = len(scene.made.device.log.read_text()), TOPICS.call(scene.made.device.name)
    call = {"id": "0" * 32, "session": 10**6, "kind": "verify", "manifest_sha256": "f" * 64}
    for changes in ({"kind": "run"}, {"command": "reboot"}, {"manifest_sha256": "../x"}, {"session": -1}):
        scene.say(topic, json.dumps(call | changes).encode())
    heard = len(scene.stranger.heard)
    for _ in range(FLOOD_MESSAGES):
        scene.say(topic, json.dumps(call).encode())
    scene.agent_logs("call malformed", since)
    assert TOPICS.reply(scene.made.device.name) not in [at for at, _ in scene.stranger.heard[heard:]]


def a_client_id_taken_over(scene: Scene) -> None:
    """The device is thrown off, as the broker's rule is without use_username_as_clientid, and comes back."""
    since = len(scene.made.device.log.read_text())
    thief = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"edgeml-{FLEET}-{scene.made.device.name}")
    thief.connect("127.0.0.1", scene.made.broker.port)
    thief.loop_start()
    scene.agent_logs("disconnected", since)
    thief.disconnect()
    thief.loop_stop()
    scene.agent_logs("connected broker", since)


def unknown_ids(count: int) -> tuple[str, ...]:
    """Ids of chunks that nobody has."""
    return tuple(secrets.token_hex(16) for _ in range(count))


STRANGERS: Final[tuple[Callable[[Scene], None], ...]] = (
    wants_of_unknown_devices,
    a_flood_of_wants,
    wants_for_what_nobody_released,
    malformed_messages,
    ids_that_lead_elsewhere,
    a_relay_that_speaks_for_others,
    bombs_for_the_host,
    a_late_will,
    forged_calls,
    a_client_id_taken_over,
)


@pytest.mark.parametrize("attack", STRANGERS, ids=lambda attack: attack.__name__)
def test_the_fleet_goes_on(scene: Scene, attack: Callable[[Scene], None]) -> None:
    """The host that was there goes on, the registry knows the truth, and the next version arrives."""
    host = scene.made.host
    attack(scene)
    scene.made.deploy(version := scene.made.release())
    scene.made.converges(version)
    scene.made.audit()
    assert host is not None
    assert host.lives
    until(lambda: seen(scene) == {scene.made.device.name: True}, "the registry has the device, and it is online")
    campaign.count("strangers' attacks dropped by rule or refused")


def seen(scene: Scene) -> dict[str, bool]:
    """The devices in the registry, and whether they say that they are online."""
    registry = Registry(scene.made.repo / DATABASE_FILE)
    try:
        devices = registry.devices()
    finally:
        registry.close()
    assert all(it.state.agent != FORGED.agent for it in devices.values())
    return {name: it.state.online for name, it in devices.items()}
