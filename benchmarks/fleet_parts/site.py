"""A fleet on this computer: a repository with many devices, Mosquitto, `edgeml fleet serve`, and simulated devices.

Each of them is a process of its own, so its CPU time and memory can be read.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

import records
from edgeml import repository
from edgeml.repository import RepositoryFolder, opened
from edgeml_core import bundle, chunks, desired
from fleet_parts.device import Boards
from fleet_parts.simulator import Progress, Simulation
from harness.program import ROOT
from support import brokers, light_agents, samples

MODEL: Final = "sample"
#: Versions that each repository has; the first is deployed to all devices.
VERSIONS: Final = ("1.0", "2.0", "3.0")
#: Bytes of the weights of each version: a release of three publications.
WEIGHTS_BYTES: Final = 100_000
#: Devices of one process: one core can follow them.
DEVICES_OF_A_PROCESS: Final = 1250
#: Seconds until all devices must have followed; the aim is a minute.
TIMEOUT_S: Final = 400.0
#: The host receives the reports of all devices within seconds: docs/deploy.md.
BROKER: Final = "allow_anonymous true\nmax_queued_messages 0"
#: Of the simulator's imports: it runs as a file in this folder.
_PATH: Final = os.pathsep.join(str(ROOT / it) for it in ("benchmarks", "tests"))
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_LOOK_EVERY_S: Final = 0.05


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The CPU seconds of a process so far, and its memory in bytes: now, and at most."""

    cpu_s: float
    rss_bytes: int
    peak_bytes: int


def usage(pid: int) -> Usage:
    """Read the usage of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = dict(it.split(":", 1) for it in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in it)
    rss, peak = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Usage(cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S, rss_bytes=rss, peak_bytes=peak)


class Swarm:
    """Processes of simulated devices, and their progress."""

    def __init__(self, simulations: Sequence[Simulation], log: Path) -> None:
        self._progress: dict[int, Progress] = {}
        program = str(Path(__file__).with_name("simulator.py"))
        with log.open("ab") as err:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, program, msgspec.json.encode(it).decode()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=err,
                    env=os.environ | {"PYTHONPATH": _PATH},
                )
                for it in simulations
            ]
        self._readers = [threading.Thread(target=self._read, args=(it,)) for it in self._processes]
        for reader in self._readers:
            reader.start()

    def end(self) -> None:
        """End all processes; their last progress has the devices that began each version."""
        for it in self._processes:
            assert it.stdin is not None  # noqa: S101 - a pipe
            it.stdin.close()
        for it, reader in zip(self._processes, self._readers, strict=True):
            try:
                it.wait(TIMEOUT_S)
            finally:
                it.kill()
                reader.join()

    @property
    def connected(self) -> int:
        """The devices that have connected and decided."""
        return sum(it.connected for it in self._now())

    @property
    def errors(self) -> Counter[str]:
        """The failed steps of all devices, by code; each was repeated."""
        return sum((Counter(it.errors) for it in self._now()), Counter[str]())

    def decided(self, document: str) -> int:
        """Return the devices that have decided by a fleet document."""
        return sum(it.decided.get(document, 0) for it in self._now())

    def last_s(self, document: str) -> float:
        """Return the time of the last decision by a document."""
        return max(it.last_s[document] for it in self._now() if document in it.last_s)

    def serving(self, version: str) -> int:
        """Return the devices that serve a version."""
        return sum(it.serving.get(version, 0) for it in self._now())

    def began(self, version: str) -> set[str]:
        """Return the devices that ever began a version, after `end`."""
        return {name for it in self._now() for name in it.began.get(version, ())}

    def check(self) -> None:
        """Raise if a process has ended.

        Raises:
            RuntimeError: it has.
        """
        if any(it.poll() is not None for it in self._processes):
            raise RuntimeError("a process of simulated devices has ended; see devices.log")

    def _now(self) -> list[Progress]:
        return list(self._progress.values())

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe
        for line in process.stdout:
            self._progress[process.pid] = msgspec.json.decode(line, type=Progress)


@dataclass
class Site:
    """The running parts."""

    folder: Path
    names: Sequence[str]
    broker: brokers.Mosquitto
    host_pid: int
    swarm: Swarm

    @property
    def repo(self) -> Path:
        """The repository's folder."""
        return self.folder / "repo"

    def document(self) -> str:
        """Return the digest of the signed fleet document."""
        return chunks.sha256(desired.encode(opened(self.repo).document()))

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until a condition of the devices holds."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds():
            self.swarm.check()
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"not within {TIMEOUT_S} s: {what}; {self.swarm.connected} are connected")
            time.sleep(_LOOK_EVERY_S)


def names_of(devices: int) -> list[str]:
    """Return the ids of the devices."""
    return [f"board-{number:06d}" for number in range(devices)]


def made(repo: Path, devices: int) -> RepositoryFolder:
    """Make a repository of so many enrolled devices, with all versions; the first is deployed."""
    repository.init(repo, fleet="edge")
    folder = opened(repo)
    records.fill(folder, devices)
    for version in VERSIONS:
        files = samples.FILES | {"model.weights": weights(version)}
        described = tuple(bundle.describe(path, io.BytesIO(data)) for path, data in sorted(files.items()))
        of = samples.a_manifest(name=MODEL, version=version, files=described)
        path = repo.parent / f"{of.stem}.edgeml"
        path.write_bytes(samples.a_bundle(of, files))
        repository.publish(repo, [path])
    repository.deploy(repo, MODEL, VERSIONS[0], selector="")
    return folder


def weights(version: str) -> bytes:
    """Return the incompressible weights of a version."""
    return np.random.default_rng(VERSIONS.index(version)).bytes(WEIGHTS_BYTES)


def simulations(folder: Path, port: int, names: Sequence[str], boards: Boards, **links: float) -> list[Simulation]:
    """Divide the devices of the repository in a folder into processes.

    Args:
        port: the broker's.
        links: see `Simulation`.
    """
    of, anchors = opened(folder / "repo"), folder / "anchors"
    anchors.mkdir()
    for signed in of.both:
        (anchors / f"{signed.name}.root.json").write_bytes(signed.newest_root())
    return [
        Simulation(
            port=port,
            fleet=of.fleet_name,
            names=list(names[start : start + DEVICES_OF_A_PROCESS]),
            anchors=str(anchors),
            state=str(folder / f"state-{start}"),
            boards=boards,
            **links,
        )
        for start in range(0, len(names), DEVICES_OF_A_PROCESS)
    ]


@contextmanager
def site(folder: Path, devices: int, boards: Boards | None = None, **links: float) -> Iterator[Site]:
    """Run a fleet until the end of the block; its devices are connecting when the block begins.

    Args:
        devices: their number.
        boards: their behaviour.
        links: see `Simulation`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made(folder / "repo", devices)
    names = names_of(devices)
    with ExitStack() as stack:
        broker = stack.enter_context(brokers.mosquitto(folder / "broker", BROKER))
        host = stack.enter_context(light_agents.host(folder / "repo", broker.url))
        of = simulations(folder, broker.port, names, boards or Boards(), **links)
        swarm = Swarm(of, folder / "devices.log")
        running = Site(folder, names, broker, host.process.pid, swarm)
        try:
            yield running
        finally:
            swarm.end()
