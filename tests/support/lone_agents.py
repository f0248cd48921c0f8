"""Agents without a network: `edgeml-agent install` from a USB stick, then `edgeml-agent run`.

Their broker can't be reached. Each has a store and a port of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeml import repository
from edgeml.repository.deployments import deploy
from edgeml_core.bundle import BundleReader
from support import ports, server_processes
from support.programs import agent_command, listen_at
from support.server_processes import Server
from support.waiting import until

FLEET: Final = "field"
DEVICE: Final = "board-1"
NOWHERE: Final = "mqtt://127.0.0.1:1"
READY: Final = "/health/ready"
TUNED_MAX_S: Final = 60.0


@contextmanager
def running(folder: Path, bundles: Sequence[Path] = (), *, tunes: bool = False) -> Iterator[Server]:
    """An agent for the time of a block, ready when it begins; the bundles are installed the first time.

    Args:
        tunes: whether it finds out how the models run best here, as it does unless it is told not to; the block begins
            when it has.
    """
    config = folder / "device" / "agent.toml"
    if not config.exists():
        _enroll(folder, config)
        if bundles:
            install(folder, bundles)
    port = ports.free_port()
    listen_at(config, f"127.0.0.1:{port}")
    environment = os.environ | {"EDGEML_SERVE_TUNE": str(tunes).lower()}
    command = [sys.executable, *agent_command(config)]
    with server_processes.running(command, port, READY, folder / "agent.log", environment) as server:
        if tunes:
            _await_tuned(config)
        yield server


def install(folder: Path, bundles: Sequence[Path]) -> None:
    """Bring new bundles on the stick to the agent in `folder`; one that runs serves them within seconds."""
    stick, config = folder / "stick", folder / "device" / "agent.toml"
    repository.publish(stick, list(bundles))
    for bundle in bundles:
        with bundle.open("rb") as file:
            manifest = BundleReader(file).manifest
        deploy(stick, manifest.name, manifest.version, selector="")
    done = _run("install", str(stick), config=config)
    if len(json.loads(done)["installed"]) != len(bundles):
        raise RuntimeError(done)


def _enroll(folder: Path, config: Path) -> None:
    repository.init(folder / "stick", fleet=FLEET)
    repository.enroll(folder / "stick", DEVICE, labels={}, broker_url=NOWHERE, out_dir=config.parent)


def _await_tuned(config: Path) -> None:
    def is_tuned() -> bool:
        return all(model["tuned"] is not None for model in json.loads(_run("models", config=config))["models"])

    until(is_tuned, "all models are tuned", TUNED_MAX_S)


def _run(*arguments: str, config: Path) -> str:
    command = [sys.executable, "-m", "edgeml_agent", *arguments, "--json", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
