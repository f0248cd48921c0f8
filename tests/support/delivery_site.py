"""A site for delivery tests: broker, host and agent as separate processes, and a client that receives all messages.

The host is `edgeml fleet serve`, the agent `edgeml-agent run`; both are started as an operator does, stopped or killed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import paho.mqtt.client as paho

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_core import messages
from edgeml_core.messages import DeviceState, Report, Topics, Want
from support import brokers, paho_clients
from support.plain_http import NO_TLS
from support.programs import Program, Programs, agent_command, enroll, host_command, programs
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until

__all__ = ("DEVICE", "FLEET", "MODEL", "TIMEOUT_S", "Observer", "Program", "Site", "site", "until")

DEVICE: Final = "board-1"
FLEET: Final = "farm"
MODEL: Final = "tiny"


class Observer:
    """A client that receives all messages of the fleet, in the broker's order."""

    def __init__(self, port: int) -> None:
        self.topics = Topics(FLEET)
        self.heard: list[tuple[str, bytes]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        self._answer: Callable[[str], bytes] | None = None
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(f"{self.topics.root}/#", qos=1)
        assert subscribed.wait(TIMEOUT_S)

    def close(self) -> None:
        """Leave."""
        paho_clients.leave(self._client)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish a message, as any client of the broker can."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(TIMEOUT_S)

    def answer_wants(self, answer: Callable[[str], bytes]) -> None:
        """Act as the origin from now on: publish `answer(key)` for each requested key."""
        self._answer = answer

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if not message.payload:
            return  # an agent tests its rights with an empty message
        self.heard.append((message.topic, message.payload))
        if self._answer and message.topic == self.topics.want(DEVICE):
            for key in messages.decode(message.payload, Want).keys:
                self._client.publish(self.topics.chunk(key), self._answer(key))

    def wants(self, since: int = 0) -> list[str]:
        """Return the keys that the device has requested."""
        topic = self.topics.want(DEVICE)
        wants = [messages.decode(payload, Want) for at, payload in self.heard[since:] if at == topic]
        return [key for want in wants for key in want.keys]

    def chunks(self, since: int = 0) -> list[str]:
        """Return the keys of the chunks published."""
        root = self.topics.chunk("")
        return [topic.removeprefix(root) for topic, _ in self.heard[since:] if topic.startswith(root)]

    def reports(self) -> list[Report]:
        """Return the device's reports."""
        topic = self.topics.report(DEVICE)
        return [messages.decode(payload, Report) for at, payload in self.heard if at == topic]

    def states(self) -> list[DeviceState]:
        """Return the device's states."""
        topic = self.topics.state(DEVICE)
        return [messages.decode(payload, DeviceState) for at, payload in self.heard if at == topic]

    def await_report(self, *, state: str, version: str = "", code: str = "") -> Report:
        """Wait for a report with these values, and return it."""
        found: list[Report] = []

        def has_come() -> bool:
            found[:] = [it for it in self.reports() if (it.state, it.version, it.code) == (state, version, code)]
            return bool(found)

        until(has_come, f"a report {state!r} of version {version!r} with code {code!r}")
        return found[0]


@dataclass
class Site:
    """All of one test's parts."""

    folder: Path
    broker: brokers.Mosquitto
    observer: Observer
    programs: Programs

    @property
    def repo(self) -> Path:
        """The repository."""
        return self.folder / "repo"

    @property
    def device(self) -> Path:
        """The folder that enrolling made."""
        return self.folder / "device"

    @property
    def config(self) -> Path:
        """The device's agent.toml."""
        return self.device / "agent.toml"

    def publish(self, version: str, **changes: object) -> Path:
        """Make a tiny model that answers `x * scale + 1`, publish it, and return its bundle."""
        path = self.folder / f"{MODEL}-{version}.edgeml"
        tiny_onnx_bundle(path, name=MODEL, version=version, **changes)
        repository.publish(self.repo, [path])
        return path

    def deploy(self, version: str) -> str:
        """Deploy a version to all devices; return the deployment's id."""
        return deploy(self.repo, MODEL, version, selector="").deployment.id

    def start_host(self) -> Program:
        """`edgeml fleet serve`."""
        return self.programs.start(self.folder / "host.log", *host_command(self.repo, self.broker.url))

    def start_agent(self) -> Program:
        """`edgeml-agent run`."""
        return self.programs.start(self.folder / "agent.log", *agent_command(self.config))

    def run_agent_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of `edgeml-agent`, with JSON."""
        command = [sys.executable, "-m", "edgeml_agent", *arguments, "--json", "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    def answer(self) -> float:
        """Return the device's answer to 10: 10 * scale + 1 of the version that serves."""
        url = f"http://{self.http}/v1/models/{MODEL}/predict"
        response = httpx.post(url, json={"inputs": {"x": [[10.0, 0.0, 0.0, 0.0]]}}, timeout=TIMEOUT_S, verify=NO_TLS)
        assert response.status_code == 200, response.text
        return float(re.findall(r"[\d.]+", response.text.split('"y"', 1)[1])[0])

    def answers(self, expected: float) -> bool:
        """Return whether the device gives this answer."""
        try:
            return self.answer() == expected
        except (httpx.HTTPError, AssertionError):
            return False

    def partial(self) -> Path | None:
        """The folder of a release that is being fetched."""
        return next((self.device / "store" / "releases").glob("*.partial"), None)

    @property
    def http(self) -> str:
        """The address of the agent's HTTP server."""
        return re.findall(r'listening http="([^"]+)"', (self.folder / "agent.log").read_text())[-1]


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Make a fleet of one enrolled device on a broker; nothing runs yet but the broker."""
    with brokers.mosquitto(folder / "broker") as broker, programs() as started:
        repository.init(folder / "repo", fleet=FLEET)
        enroll(folder / "repo", DEVICE, broker.url, folder / "device")
        made = Site(folder, broker, Observer(broker.port), started)
        try:
            yield made
        finally:
            made.observer.close()
