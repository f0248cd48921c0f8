"""The servers that the agent is compared with, each in an environment of its own; their programs are in `rivals/`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import rivals
from serving_parts.served_models import Endpoint, ServedModel
from support import brokers, server_processes
from support.server_processes import Server

SERVER_PROGRAMS: Final = Path(__file__).with_name("rivals")

Command = Callable[[Path, int, Path, ServedModel], list[str | Path]]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One rival server.

    Attributes:
        name: the server's name; its requirement file has it in lower case.
        aim: the factor by which the agent's throughput at 16 connections should exceed the rival's.
        command: returns the command that starts it, from its environment's programs, a port, a folder and the model.
        ready: a path that answers 200 when the model is served; `{}` stands for the model's name.
        endpoint: returns the endpoint that is compared.
    """

    name: str
    aim: float
    command: Command
    ready: str
    endpoint: Callable[[ServedModel], Endpoint]

    @property
    def version(self) -> str:
        """The pinned version."""
        return rivals.version(self.name.lower())

    def programs(self, *, installs: bool) -> Path:
        """Return the programs of its environment; raise RivalUnavailableError where there is none."""
        return rivals.programs(self.name.lower(), installs=installs)


def _mlserver(programs: Path, port: int, folder: Path, served: ServedModel) -> list[str | Path]:
    """Serve in the server's own process (`parallel_workers` 0): its default is far slower."""
    settings = {"debug": False, "host": "127.0.0.1", "http_port": port, "parallel_workers": 0}
    settings |= {"grpc_port": brokers.free_port(), "metrics_port": brokers.free_port()}
    model = {"name": served.name, "implementation": "mlserver_runtime.OnnxRuntime"}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [programs / "mlserver", "start", folder]


def _kserve(programs: Path, port: int, _folder: Path, _served: ServedModel) -> list[str | Path]:
    return [programs / "python", SERVER_PROGRAMS / "kserve_server.py", str(port)]


def _litserve(programs: Path, port: int, _folder: Path, _served: ServedModel) -> list[str | Path]:
    return [programs / "python", SERVER_PROGRAMS / "litserve_server.py", str(port)]


RIVALS: Final = (
    Rival(name="MLServer", aim=5, command=_mlserver, ready="/v2/models/{}/ready", endpoint=lambda it: it.protocol),
    Rival(name="KServe", aim=5, command=_kserve, ready="/v2/models/{}/ready", endpoint=lambda it: it.protocol),
    Rival(name="LitServe", aim=7, command=_litserve, ready="/health", endpoint=lambda it: it.litserve),
)


@contextmanager
def running(rival: Rival, programs: Path, folder: Path, served: ServedModel) -> Iterator[Server]:
    """Run a rival with the model for the time of a block."""
    folder.mkdir()
    port = brokers.free_port()
    command, ready = rival.command(programs, port, folder, served), rival.ready.format(served.name)
    with server_processes.running(command, port, ready, folder / "log", _environment(served)) as server:
        yield server


@contextmanager
def bare(folder: Path, served: ServedModel) -> Iterator[Server]:
    """Run a socket with the session behind it, in edgeml's own environment."""
    port = brokers.free_port()
    command = [sys.executable, SERVER_PROGRAMS / "bare_server.py", str(port)]
    with server_processes.running(command, port, "/", folder / "bare.log", _environment(served)) as server:
        yield server


def _environment(served: ServedModel) -> Mapping[str, str]:
    added = {"SERVED_MODEL": served.for_rivals(), "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | added | {"PYTHONPATH": str(SERVER_PROGRAMS)}
