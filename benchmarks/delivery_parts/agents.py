"""One release for eight real agents: publications per chunk, counted at the broker.

Each agent is `edgeml-agent run` in a process of its own; it probes and serves the release, too. In one case all are
connected when the release is deployed; in the other all are started at once after that, as after a power cut.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_agent.store.releases import Release
from edgeml_core import manifest as manifests
from edgeml_core import messages, wire_keys
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, Report
from harness import host
from harness.figures import Figure, HostLoad, Run, most
from support import brokers, light_agents
from support.delivery_site import FLEET, Observer, Program
from support.light_agents import MODEL
from support.tiny_models import tiny_onnx_bundle

AIM: Final = most(1.3)
MIB: Final = 1024**2
#: Seconds until all agents must serve: eight probes and 96 MiB each on two busy cores take about a minute.
TIMEOUT_S: Final = 300.0
#: Seconds between two looks at the devices' messages: looking takes CPU time from the agents.
LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Size:
    """The runs of each case, the number of devices, and the bytes of the weights."""

    runs: int
    devices: int
    weights_bytes: int


FULL: Final = Size(runs=3, devices=8, weights_bytes=96 * MIB)
QUICK: Final = Size(runs=1, devices=3, weights_bytes=2 * MIB)


@dataclass
class Fleet:
    """A repository, its host and broker, and enrolled devices whose agents are started on demand."""

    folder: Path
    broker: brokers.Mosquitto
    observer: Observer
    devices: Sequence[str]
    programs: list[Program] = field(default_factory=list)

    def start_agents(self) -> None:
        """Start all agents, one process right after the other."""
        for name in self.devices:
            config = self.folder / "devices" / name / "agent.toml"
            log = self.folder / f"{name}.log"
            self.programs.append(Program(log, "-m", "edgeml_agent", "run", "--config", str(config)))

    def await_connected(self) -> None:
        """Wait until each device has published its state."""
        self._await(DeviceState, "state", lambda _: True)

    def await_active(self) -> None:
        """Wait until each device has reported that it serves the release.

        Raises:
            RuntimeError: a device refused the release.
        """
        self._await(Report, "report", _is_active)

    def deploy(self, weights_bytes: int) -> Release:
        """Publish a release and deploy it to all devices."""
        bundle = self.folder / f"{MODEL}.edgeml"
        manifest = tiny_onnx_bundle(bundle, name=MODEL, weights_bytes=weights_bytes)
        (added,) = repository.publish(self.folder / "repo", [bundle])
        deploy(self.folder / "repo", MODEL, selector="")
        return Release(digest=added.manifest_sha256, manifest_bytes=manifests.encode(manifest), manifest=manifest)

    def per_chunk(self, release: Release, since: int) -> float:
        """Return the publications of each chunk of a release, on average, since a number of observed messages."""
        ids = {wire_keys.chunk_id(digest) for entry in release.manifest.files for digest in entry.chunks}
        return sum(it in ids for it in self.observer.chunks(since)) / len(ids)

    def _await(self, kind: type, name: str, holds: Callable[[Any], bool]) -> None:
        """Wait until each device has sent a message of that kind for which `holds` is true."""
        topics = {getattr(self.observer.topics, name)(device) for device in self.devices}
        deadline_s = time.monotonic() + TIMEOUT_S
        while (found := self._senders(topics, kind, holds)) != topics:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"within {TIMEOUT_S} s {len(found)} of {len(topics)} devices sent their {name}")
            time.sleep(LOOK_EVERY_S)

    def _senders(self, topics: set[str], kind: type, holds: Callable[[Any], bool]) -> set[str]:
        sent = [(topic, payload) for topic, payload in list(self.observer.heard) if topic in topics]
        return {topic for topic, payload in sent if holds(messages.decode(payload, kind))}


def _is_active(report: Report) -> bool:
    if report.state in (State.REJECTED, State.ROLLED_BACK):
        raise RuntimeError(f"a device ended with {report}")
    return report.state == State.ACTIVE


def figures(run: Run) -> Iterator[Figure]:
    """Yield the publications per chunk of both cases."""
    size, folder = run.size(FULL, QUICK), run.folder / "agents"
    for case, is_running in (("connected when the release is deployed", True), ("started at once after that", False)):
        name = "connected" if is_running else "started"
        outcomes = [_deliver(folder / f"{name}-{number}", size, is_running) for number in range(size.runs)]
        worst, load, _ = max(outcomes, key=lambda it: it[0])
        yield Figure(
            name=f"publications per chunk, {size.devices} agents {case}, worst run",
            value=worst,
            sides={f"run {number}": round(it[0], 3) for number, it in enumerate(outcomes, 1)},
            host=load,
            aim=AIM,
            note=f"{min(it[2] for it in outcomes):.1f} s until all served",
        )


def _deliver(folder: Path, size: Size, is_running: bool) -> tuple[float, HostLoad, float]:  # noqa: FBT001 - a case
    """Deliver to all; return the publications per chunk, the host's load, and the seconds until all served."""
    with _fleet(folder, size.devices) as fleet:
        if is_running:
            fleet.start_agents()
            fleet.await_connected()
        since, begun_s = len(fleet.observer.heard), time.perf_counter()
        with host.watching() as watch:
            release = fleet.deploy(size.weights_bytes)
            if not is_running:
                fleet.start_agents()
            fleet.await_active()
        return fleet.per_chunk(release, since), watch.load, time.perf_counter() - begun_s


@contextmanager
def _fleet(folder: Path, devices: int) -> Iterator[Fleet]:
    names = [f"board-{number}" for number in range(devices)]
    with ExitStack() as stack:
        broker = stack.enter_context(brokers.mosquitto(folder / "broker"))
        repository.init(folder / "repo", fleet=FLEET)
        for name in names:
            device = folder / "devices" / name
            repository.enroll(folder / "repo", name, labels={}, broker_url=broker.url, out_dir=device)
            config = device / "agent.toml"
            config.write_text(re.sub(r'http = ".*"', 'http = "127.0.0.1:0"', config.read_text()))
        stack.enter_context(light_agents.host(folder / "repo", broker.url))
        fleet = Fleet(folder, broker, Observer(broker.port), names)
        stack.callback(lambda: [program.kill() for program in fleet.programs])
        stack.callback(fleet.observer.close)
        yield fleet
