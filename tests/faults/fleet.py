"""A fleet for fault tests: broker, host and agents as real processes, clients without pause, and invariants.

A device answers `10 * scale + 1` with the scale of the version that serves: the answer identifies the version.
A request is lost when it fails while its agent runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from edgeml import repository
from edgeml.repository.deployments import deploy
from faults import campaign
from faults.disk import mounted
from faults.forked import Forked
from faults.mitm import Mitm, mitm
from support import brokers, ports
from support.plain_http import NO_TLS
from support.programs import agent_command, enroll, host_command
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until

FLEET: Final = "farm"
MODEL: Final = "tiny"
ASK_EVERY_S: Final = 0.01


class Traffic:
    """A client of one device that sends requests without pause."""

    def __init__(self, port: int) -> None:
        self.allowed: set[float] = set()
        self.answer = 0.0
        self.asked = 0
        self.lost: list[str] = []
        self.wrong: list[float] = []
        #: Monotonic time at which the agent died; None once it has answered again.
        self._dead_since: float | None = 0.0
        self._url = f"http://127.0.0.1:{port}/v1/models/{MODEL}/predict"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def answers(self) -> bool:
        """Whether the agent has answered since it last died."""
        return self._dead_since is None

    def agent_dies(self) -> None:
        """Accept that requests fail from now on."""
        self._dead_since = math.inf

    def agent_starts(self) -> None:
        """Accept no failure after the first answer to a request sent from now on."""
        self._dead_since = time.monotonic()

    def end(self) -> None:
        """Stop the client."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S, verify=NO_TLS) as client:
            while not self._ended.wait(ASK_EVERY_S):
                self._ask(client, time.monotonic())

    def _ask(self, client: httpx.Client, began: float) -> None:
        try:
            response = client.post(self._url, json={"inputs": {"x": [[10.0, 0.0, 0.0, 0.0]]}})
            response.raise_for_status()
            answer = float(re.findall(r"[\d.]+", response.text.split('"y"', 1)[1])[0])
        except Exception as error:  # noqa: BLE001 - with any error the client has no answer
            if self._dead_since is None:
                self.lost.append(f"{error!r} while {self.answer} answered")
            return
        if self._dead_since is not None and began > self._dead_since:
            self._dead_since = None
        if answer not in self.allowed:
            self.wrong.append(answer)
        self.asked += 1
        self.answer = answer


@dataclass
class Device:
    """One enrolled device: its folder, its agent and its client."""

    name: str
    folder: Path
    port: int
    traffic: Traffic
    log: Path
    clock_s: float = 0.0
    agent: Forked | None = None

    @property
    def config(self) -> Path:
        """Its agent.toml."""
        return self.folder / "agent.toml"

    @property
    def store(self) -> Path:
        """Its store."""
        return self.folder / "store"

    def start(self) -> None:
        """`edgeml-agent run`."""
        self.traffic.agent_starts()
        self.agent = Forked(self.log, *agent_command(self.config), clock_s=self.clock_s)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.agent is not None
        self.traffic.agent_dies()
        self.agent.kill()

    def stop(self) -> None:
        """SIGTERM."""
        assert self.agent is not None
        self.traffic.agent_dies()
        assert self.agent.stop() == 0, self.log.read_text()[-2000:]

    def restart(self, *, clock_s: float = 0.0) -> None:
        """Stop it with SIGTERM, and start it with another clock."""
        self.stop()
        self.clock_s = clock_s
        self.start()

    def comes_up(self) -> None:
        """Check that the agent answers soon after its start, with the version that served before."""
        with contextlib.suppress(AssertionError):
            until(lambda: self.traffic.answers, "an answer")
        assert self.agent is not None
        last = f"(exit code {self.agent.process.exitcode}) {self.log.read_text()[-1500:]}"
        campaign.check_invariant(
            "devices without a serving model", self.traffic.answers, f"{self.name} gives no answer: {last}"
        )

    def record(self) -> dict[str, object]:
        """Return the store's record of the model."""
        with contextlib.closing(sqlite3.connect(f"file:{self.store}/agent.sqlite?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            row = database.execute("SELECT * FROM model WHERE name = ?", (MODEL,)).fetchone()
        return dict(row) if row else {}

    def is_crash_loop(self) -> bool:
        """Return whether the agent took the kills for a crash of the newest version."""
        return self.record().get("code") == "crash-loop"


@dataclass
class Fleet:
    """All parts of one scenario."""

    folder: Path
    broker: brokers.Mosquitto
    devices: list[Device] = field(default_factory=list)
    host: Forked | None = None
    #: Each release's answer to 10, by the digest of its manifest.
    released: dict[str, float] = field(default_factory=dict)
    versions: int = 0
    #: The man in the middle between devices and broker, if there is one.
    mitm: Mitm | None = None

    @property
    def repo(self) -> Path:
        """The repository."""
        return self.folder / "repo"

    @property
    def device(self) -> Device:
        """The first device."""
        return self.devices[0]

    def log(self, name: str) -> str:
        """Return the log of a program."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start_host(self) -> None:
        """`edgeml fleet serve`."""
        self.host = Forked(self.folder / "host.log", *host_command(self.repo, self.broker.url))

    def bundle(self, **changes: object) -> tuple[str, Path]:
        """Make the next version, with a scale of its own."""
        self.versions += 1
        version, path = f"{self.versions}.0", self.folder / f"{MODEL}-{self.versions}.edgeml"
        made = {"scale": float(self.versions), "seed": self.versions} | changes
        tiny_onnx_bundle(path, name=MODEL, version=version, **made)  # type: ignore[arg-type]
        return version, path

    def release(self, **changes: object) -> str:
        """Make and publish the next version."""
        version, path = self.bundle(**changes)
        self.note(*repository.publish(self.repo, [path]))
        return version

    def note(self, published: repository.Published) -> None:
        """Accept the answer of this release from now on."""
        self.released[published.manifest_sha256] = answer_of(published.version)
        for device in self.devices:
            device.traffic.allowed.add(answer_of(published.version))

    def deploy(self, version: str) -> None:
        """Deploy a version to all devices."""
        deploy(self.repo, MODEL, version, selector="")

    def converges(self, version: str, timeout_s: float = TIMEOUT_S) -> None:
        """Check that every device comes to answer with `version`."""
        for device in self.devices:
            with contextlib.suppress(AssertionError):
                until(lambda device=device: device.traffic.answer == answer_of(version), "it converges", timeout_s)
            detail = (
                f"{device.name} answers {device.traffic.answer}, not by {version}: {device.log.read_text()[-2500:]}"
            )
            campaign.check_invariant(
                "devices that didn't converge", device.traffic.answer == answer_of(version), detail
            )

    def audit(self) -> None:
        """Check the invariants that hold under all faults."""
        for device in self.devices:
            traffic = device.traffic
            campaign.check_invariant(
                "wrong bytes activated", not traffic.wrong, f"{device.name} answered {traffic.wrong[:5]}"
            )
            campaign.check_invariant("requests lost", not traffic.lost, f"of {device.name}: {traffic.lost[:3]}")
            self.audit_disk(device)

    def audit_disk(self, device: Device) -> None:
        """Check without the agent's code that the active and the previous release are as released."""
        for digest in filter(None, (device.record().get(role) for role in ("active", "previous"))):
            detail = f"{device.name} has a release that nobody made: {digest}"
            campaign.check_invariant("wrong bytes activated", digest in self.released, detail)
            folder = device.store / "releases" / str(digest)[:32]
            # A running agent may have replaced the release meanwhile.
            is_right = _is_whole(folder, str(digest)) or digest not in device.record().values()
            campaign.check_invariant("wrong bytes activated", is_right, f"{device.name}: {folder}")

    def end(self) -> None:
        """Stop all programs."""
        for device in self.devices:
            device.traffic.end()
            campaign.count("requests answered", device.traffic.asked)
            if device.agent is not None:
                device.agent.kill()
        if self.host is not None:
            self.host.kill()


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        manifest = (folder / "manifest.json").read_bytes()
        files = {folder / file["path"]: file["sha256"] for file in json.loads(manifest)["files"]}
        is_listed = hashlib.sha256(manifest).hexdigest() == digest
        return is_listed and all(hashlib.sha256(path.read_bytes()).hexdigest() == it for path, it in files.items())
    except FileNotFoundError:
        return False


def answer_of(version: str) -> float:
    """Return the answer of a version to 10."""
    return 10.0 * float(version) + 1.0


@contextmanager
def fleet(
    folder: Path,
    *,
    devices: int = 1,
    broker_config: str = brokers.OPEN,
    through_mitm: bool = False,
    small_disk: bool = False,
) -> Iterator[Fleet]:
    """Start a fleet whose devices all serve version 1.0; at its end the invariants are checked once more.

    Args:
        folder: for all files.
        devices: their number.
        broker_config: lines of mosquitto.conf.
        small_disk: whether the first device's store lies on a small filesystem of its own.
        through_mitm: whether devices reach the broker through `mitm`; the host doesn't.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(brokers.mosquitto(folder / "broker", broker_config))
        made = Fleet(folder, broker, mitm=stack.enter_context(mitm(broker.port)) if through_mitm else None)
        repository.init(made.repo, fleet=FLEET)
        for number in range(1, devices + 1):
            made.devices.append(_enrolled(made, f"board-{number}", made.mitm.port if made.mitm else broker.port))
        if small_disk:
            stack.enter_context(mounted(made.device.store))
        try:
            made.deploy(made.release())
            made.start_host()
            for device in made.devices:
                device.start()
            for device in made.devices:
                device.comes_up()
            yield made
            made.audit()
        finally:
            made.end()


def _enrolled(made: Fleet, name: str, broker_port: int) -> Device:
    folder, port = made.folder / name, ports.free_port()
    enroll(made.repo, name, f"mqtt://127.0.0.1:{broker_port}", folder, http=f"127.0.0.1:{port}")
    return Device(name, folder, port, Traffic(port), made.folder / f"{name}.log")
