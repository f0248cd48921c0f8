"""A site for delivery tests: broker, host and agent as separate processes, and a client that watches what they say.

The host is `edgeml fleet serve`, the agent `edgeml-agent run`; both are started as an operator does, stopped or killed.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import paho.mqtt.client as paho

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_core import messages
from edgeml_core.messages import DeviceState, Report, Topics, Want
from support import brokers
from support.tiny_models import tiny_onnx_bundle

DEVICE: Final = "board-1"
FLEET: Final = "farm"
MODEL: Final = "tiny"
TIMEOUT_S: Final = 60.0


def until(holds: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


class Program:
    """A child process with its log in a file."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=out)

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, as a service manager does; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


class Observer:
    """A client that hears everything of the fleet, in the order in which the broker passes it on."""

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
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Say something, as whoever has got into the broker could."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(TIMEOUT_S)

    def answer_wants(self, answer: Callable[[str], bytes]) -> None:
        """From now on be the origin: publish for each wanted key what `answer` makes of it."""
        self._answer = answer

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if not message.payload:
            return  # an echo, by which an agent tries its rights
        self.heard.append((message.topic, message.payload))
        if self._answer and message.topic == self.topics.want(DEVICE):
            for key in messages.decode(message.payload, Want).keys:
                self._client.publish(self.topics.chunk(key), self._answer(key))

    def wants(self, since: int = 0) -> list[str]:
        """The keys that the device has wanted."""
        topic = self.topics.want(DEVICE)
        wants = [messages.decode(payload, Want) for at, payload in self.heard[since:] if at == topic]
        return [key for want in wants for key in want.keys]

    def chunks(self, since: int = 0) -> list[str]:
        """The keys of the chunks published."""
        root = self.topics.chunk("")
        return [topic.removeprefix(root) for topic, _ in self.heard[since:] if topic.startswith(root)]

    def reports(self) -> list[Report]:
        """What the device has reported."""
        topic = self.topics.report(DEVICE)
        return [messages.decode(payload, Report) for at, payload in self.heard if at == topic]

    def states(self) -> list[DeviceState]:
        """The device's states."""
        topic = self.topics.state(DEVICE)
        return [messages.decode(payload, DeviceState) for at, payload in self.heard if at == topic]

    def await_report(self, *, state: str, version: str = "", code: str = "") -> Report:
        """The first report that says this."""
        found: list[Report] = []

        def said() -> bool:
            found[:] = [it for it in self.reports() if (it.state, it.version, it.code) == (state, version, code)]
            return bool(found)

        until(said, f"a report {state!r} of version {version!r} with code {code!r}")
        return found[0]


@dataclass
class Site:
    """All of one test's parts."""

    folder: Path
    broker: brokers.Mosquitto
    observer: Observer
    programs: list[Program] = field(default_factory=list)

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
        """Make a tiny model that answers `x * scale + 1`, and release it; its bundle."""
        path = self.folder / f"{MODEL}-{version}.edgeml"
        tiny_onnx_bundle(path, name=MODEL, version=version, **changes)
        repository.publish(self.repo, [path])
        return path

    def deploy(self, version: str) -> str:
        """Let all devices want a version; the deployment's id."""
        return deploy(self.repo, MODEL, version, selector={}).deployment.id

    def start_host(self) -> Program:
        """`edgeml fleet serve`."""
        return self._start("host", "edgeml", "fleet", "serve", "--repo", str(self.repo), "--broker", self.broker.url)

    def start_agent(self) -> Program:
        """`edgeml-agent run`."""
        return self._start("agent", "edgeml_agent", "run", "--config", str(self.config))

    def run_agent_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of `edgeml-agent`, with JSON."""
        command = [sys.executable, "-m", "edgeml_agent", *arguments, "--json", "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    def answer(self) -> float:
        """What the device answers to 10: 10 * scale + 1 of the version that serves."""
        url = f"http://{self.http}/v1/models/{MODEL}/predict"
        response = httpx.post(url, json={"inputs": {"x": [[10.0, 0.0, 0.0, 0.0]]}}, timeout=TIMEOUT_S)
        assert response.status_code == 200, response.text
        return float(re.findall(r"[\d.]+", response.text.split('"y"', 1)[1])[0])

    def answers(self, expected: float) -> bool:
        """Whether the device answers that."""
        try:
            return self.answer() == expected
        except (httpx.HTTPError, AssertionError):
            return False

    def partial(self) -> Path | None:
        """The folder of a release that is being fetched."""
        return next((self.device / "store" / "releases").glob("*.partial"), None)

    @property
    def http(self) -> str:
        """Where the agent listens."""
        return re.findall(r'listening http="([^"]+)"', (self.folder / "agent.log").read_text())[-1]

    def _start(self, name: str, *module: str) -> Program:
        self.programs.append(Program(self.folder / f"{name}.log", "-m", *module))
        return self.programs[-1]


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """A fleet of one enrolled device on a broker; nothing runs yet but the broker."""
    with brokers.mosquitto(folder / "broker") as broker:
        repository.init(folder / "repo", fleet=FLEET)
        repository.enroll(folder / "repo", DEVICE, labels={}, broker_url=broker.url, out_dir=folder / "device")
        config = folder / "device" / "agent.toml"
        config.write_text(re.sub(r'http = ".*"', 'http = "127.0.0.1:0"', config.read_text()))
        made = Site(folder, broker, Observer(broker.port))
        try:
            yield made
        finally:
            made.observer.close()
            for program in made.programs:
                program.process.kill()
                program.process.wait()
