"""One deployment, unmodified, on brokers of several makers: the table of brokers in docs/compatibility.md."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from edgeml import repository
from edgeml.fleet import status
from edgeml.repository.deployments import deploy
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import broker as broker_urls
from edgeml_core.messages import Topics
from support import brokers, other_brokers, paho_clients, scale
from support.programs import agent_command, enroll, host_command, programs
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until

ROOT = Path(__file__).parents[2]
FLEET, DEVICE, MODEL, CLIENT = "farm", "board-1", "tiny", "camera"
TOPICS = Topics(FLEET)


@contextmanager
def mosquitto(folder: Path) -> Iterator[str]:
    """Run Mosquitto, and lend its address."""
    with brokers.mosquitto(folder) as running:
        yield running.url


#: By the name in the table. The embedded broker keeps nothing in the test's folder.
BROKERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "Mosquitto": mosquitto,
    "amqtt": lambda _: brokers.embedded(),
    "RabbitMQ": other_brokers.rabbitmq,
    "aedes": other_brokers.aedes,
}
BY_NIGHT = ("RabbitMQ", "aedes")


@pytest.mark.parametrize(
    "name", [pytest.param(it, marks=[pytest.mark.nightly] if it in BY_NIGHT else []) for it in BROKERS]
)
def test_a_deployment_passes_on_the_broker(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install, update, ask over MQTT; by night also new keys, device and host away and back, and a lost registry."""
    monkeypatch.setenv("EDGEML_SERVE_MQTT", "true")
    repo, config = tmp_path / "repo", tmp_path / "device" / "agent.toml"
    with BROKERS[name](tmp_path / "broker") as url, programs() as started:
        repository.init(repo, fleet=FLEET)
        enroll(repo, DEVICE, url, tmp_path / "device")

        def start_host():
            return started.start(tmp_path / "host.log", *host_command(repo, url))

        def start_agent():
            return started.start(tmp_path / "agent.log", *agent_command(config))

        # An agent that finds no metadata asks for it for some seconds.
        host = start_host()
        until(lambda: "announced" in (tmp_path / "host.log").read_text(), "the announcement")
        agent = start_agent()
        roll_out(repo, tmp_path, "1.0", scale=2.0)
        roll_out(repo, tmp_path, "2.0", scale=3.0)
        assert answered_over_mqtt(url, 10.0) == 31.0
        if not scale.IS_NIGHTLY:
            return

        repository.rotate(repo, "fleet", repository.NewKeys())
        roll_out(repo, tmp_path, "3.0", scale=4.0)

        agent.kill()
        until(lambda: status.status(repo).online == 0, "the will tells that the device is away")
        release(repo, tmp_path, "4.0", scale=5.0)
        agent = start_agent()
        is_rolled_out(repo, "4.0")

        host.stop()
        release(repo, tmp_path, "5.0", scale=6.0)
        host = start_host()
        is_rolled_out(repo, "5.0")

        host.stop()
        for file in repo.glob(f"{DATABASE_FILE}*"):
            file.unlink()
        start_host()
        until(lambda: status.status(repo).online == 1, "a host without a registry learns who is there")
    assert "rights are missing" not in (tmp_path / "agent.log").read_text()
    assert "repaired" not in (tmp_path / "host.log").read_text()


def release(repo: Path, folder: Path, version: str, *, scale: float) -> None:
    """Publish and deploy a version that answers `x * scale + 1`."""
    bundle = folder / f"{version}.edgeml"
    tiny_onnx_bundle(bundle, name=MODEL, version=version, scale=scale)
    repository.publish(repo, [bundle])
    deploy(repo, MODEL, version, selector="")


def is_rolled_out(repo: Path, version: str) -> None:
    """Wait until the device has reported that the version is active."""

    def holds() -> bool:
        states = [it.states for it in status.status(repo).deployments if it.version == version]
        return states[-1:] == [{"active": 1}]

    until(holds, f"{version} is active")


def roll_out(repo: Path, folder: Path, version: str, *, scale: float) -> None:
    """Release a version, and wait for it."""
    release(repo, folder, version, scale=scale)
    is_rolled_out(repo, version)


def answered_over_mqtt(url: str, number: float) -> float:
    """Ask the device's model as a client of MQTT 3.1.1."""
    address, answers, subscribed = broker_urls.parse(url), [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, CLIENT, protocol=paho.MQTTv311)
    inbox = TOPICS.client(CLIENT, DEVICE)

    def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        # amqtt sends a new client retained messages of all clients' subscriptions.
        if message.topic == inbox:
            answers.append(json.loads(message.payload))

    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(address.host, address.port)
    client.loop_start()
    client.subscribe(inbox)
    assert subscribed.wait(TIMEOUT_S)
    request = {"inputs": {"x": [[number, 0.0, 0.0, 0.0]]}, "id": 1, "reply_to": inbox}
    client.publish(TOPICS.infer(DEVICE, MODEL, CLIENT), json.dumps(request))
    until(lambda: answers, "an answer over MQTT")
    paho_clients.leave(client)
    return float(answers[0]["outputs"][0]["outputs"]["y"][0][0])


#: For a client of docs/compatibility.md, and for a device as far as its requests go.
CLIENT_RIGHTS = other_brokers.Rights(
    write=r"^edgeml\.1\.farm\.device\.[^.]+\.infer\.[^.]+\.{username}$", read=r"^edgeml\.1\.farm\.client\.{username}\."
)
DEVICE_RIGHTS = other_brokers.Rights(
    write=r"^edgeml\.1\.farm\.client\.[^.]+\.{username}$", read=r"^edgeml\.1\.farm\.device\.{username}\.infer\."
)


@pytest.mark.nightly
def test_a_client_asks_in_its_own_name_only_on_rabbitmq(tmp_path: Path) -> None:
    """The topic permissions of docs/compatibility.md; one regular expression serves all clients."""
    users = {"camera": CLIENT_RIGHTS, "thief": CLIENT_RIGHTS, DEVICE: DEVICE_RIGHTS}
    with other_brokers.rabbitmq(tmp_path / "broker", users) as url:
        device, heard = a_user(url, DEVICE)
        device.subscribe(TOPICS.infer(DEVICE, "+", "+"))
        for user, name in (("thief", "camera"), ("thief", "thief"), ("camera", "camera")):
            # RabbitMQ ends the connection of a client that publishes where it may not.
            client, _ = a_user(url, user)
            client.publish(TOPICS.infer(DEVICE, MODEL, name), user).wait_for_publish(TIMEOUT_S)
        until(lambda: len(heard) >= 2, "two requests")
        assert set(heard) == {(TOPICS.infer(DEVICE, MODEL, name), name.encode()) for name in ("thief", "camera")}


def a_user(url: str, name: str) -> tuple[paho.Client, list[tuple[str, bytes]]]:
    """Connect a user; the client, and a list of the messages that it receives."""
    address, heard, connected = broker_urls.parse(url), [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    client.username_pw_set(name, f"{name}-secret")
    client.on_connect = lambda *_: connected.set()
    client.on_message = lambda _client, _data, message: heard.append((message.topic, message.payload))
    client.connect(address.host, address.port)
    client.loop_start()
    assert connected.wait(TIMEOUT_S)
    return client, heard
