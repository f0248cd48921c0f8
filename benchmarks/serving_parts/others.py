"""The servers that the agent is compared with: each in an environment of its own, with its programs in `rivals/`.

The environments stay in `.venv-rivals/` in the project's root. What can't be installed isn't measured, and said so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving_parts.served import Door, Served
from support import brokers, server_processes
from support.server_processes import Server

ENVIRONMENTS: Final = Path(__file__).parents[2] / ".venv-rivals"
PROGRAMS: Final = Path(__file__).with_name("rivals")
#: The requirements' digest, written when all are installed.
STAMP: Final = ".requirements"

Command = Callable[[Path, int, Path, Served], list[str | Path]]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One of them.

    Attributes:
        aim: how many times its throughput at 16 connections ours should be.
        command: starts it, by its environment's programs, a port, a folder to write to, and what it serves.
        ready: answers 200 when the model is served; the model's name goes in.
        door: where it is asked.
    """

    name: str
    aim: float
    command: Command
    ready: str
    door: Callable[[Served], Door]

    @property
    def requirements(self) -> Path:
        """All that is installed for it, pinned."""
        return PROGRAMS / f"{self.name.lower()}.txt"

    @property
    def version(self) -> str:
        """As pinned."""
        pins = dict(line.split("==") for line in self.requirements.read_text().split())
        return pins[self.name.lower()]


def _mlserver(programs_: Path, port: int, folder: Path, served: Served) -> list[str | Path]:
    """`parallel_workers` 0: the model in the server's own process, which its own default is far slower than."""
    settings = {"debug": False, "host": "127.0.0.1", "http_port": port, "parallel_workers": 0}
    settings |= {"grpc_port": brokers.free_port(), "metrics_port": brokers.free_port()}
    model = {"name": served.name, "implementation": "mlserver_runtime.OnnxRuntime"}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [programs_ / "mlserver", "start", folder]


def _kserve(programs_: Path, port: int, _folder: Path, _served: Served) -> list[str | Path]:
    return [programs_ / "python", PROGRAMS / "kserve_server.py", str(port)]


def _litserve(programs_: Path, port: int, _folder: Path, _served: Served) -> list[str | Path]:
    return [programs_ / "python", PROGRAMS / "litserve_server.py", str(port)]


RIVALS: Final = (
    Rival(name="MLServer", aim=5, command=_mlserver, ready="/v2/models/{}/ready", door=lambda it: it.protocol),
    Rival(name="KServe", aim=5, command=_kserve, ready="/v2/models/{}/ready", door=lambda it: it.protocol),
    Rival(name="LitServe", aim=7, command=_litserve, ready="/health", door=lambda it: it.litserve),
)


def installed() -> Iterator[Rival]:
    """Those that are installed, or can be."""
    for rival in RIVALS:
        if failure := _install(rival):
            print(f"{rival.name} is not measured: it can't be installed: {failure}")
        else:
            yield rival


@contextmanager
def running(rival: Rival, folder: Path, served: Served) -> Iterator[Server]:
    """The server with the model."""
    folder.mkdir()
    port, programs_ = brokers.free_port(), ENVIRONMENTS / rival.name.lower() / "bin"
    command = rival.command(programs_, port, folder, served)
    ready = rival.ready.format(served.name)
    with server_processes.running(command, port, ready, folder / "log", _environment(served)) as server:
        yield server


@contextmanager
def bare(folder: Path, served: Served) -> Iterator[Server]:
    """A socket with the session behind it, in our own environment."""
    port = brokers.free_port()
    command = [sys.executable, PROGRAMS / "bare_server.py", str(port)]
    with server_processes.running(command, port, "/", folder / "bare.log", _environment(served)) as server:
        yield server


def _environment(served: Served) -> Mapping[str, str]:
    ours = {"SERVED_MODEL": served.for_rivals(), "PYTHONPATH": str(PROGRAMS), "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | ours


def _install(rival: Rival) -> str:
    """Make the environment, unless it is there; what went wrong, if anything."""
    folder = ENVIRONMENTS / rival.name.lower()
    digest = hashlib.sha256(rival.requirements.read_bytes()).hexdigest()
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == digest:
        return ""
    print(f"installing {rival.name} {rival.version}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--requirement", rival.requirements]
    for command in ([sys.executable, "-m", "venv", folder], pip):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr or done.stdout).strip().splitlines()[-1]
    stamp.write_text(digest)
    return ""
