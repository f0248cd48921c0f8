"""Our side: the agent as users have it, `edgeml-agent install` from a stick and then `edgeml-agent run`.

Its broker isn't there, as in a field where the line is down.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeml import repository
from edgeml.fleet.deploy import deploy
from integration import brokers
from serving_parts import programs
from serving_parts.programs import Server
from serving_parts.served import Served

DEVICE: Final = "bench-1"
NOWHERE: Final = "mqtt://127.0.0.1:1"
READY: Final = "/health/ready"
AGENT: Final = (sys.executable, "-m", "edgeml_agent")


@contextmanager
def running(folder: Path, models: Sequence[Served] = ()) -> Iterator[Server]:
    """An agent that serves `models`, with a store of its own in `folder`."""
    config = folder / "device" / "agent.toml"
    if not config.exists():
        _install(folder, config, models)
    port = brokers.free_port()
    config.write_text(re.sub(r'http = ".*"', f'http = "127.0.0.1:{port}"', config.read_text()))
    with programs.running([*AGENT, "run", "--config", config], port, READY, folder / "agent.log") as server:
        yield server


def _install(folder: Path, config: Path, models: Sequence[Served]) -> None:
    stick = folder / "stick"
    repository.init(stick, fleet="bench")
    repository.enroll(stick, DEVICE, labels={}, broker_url=NOWHERE, out_dir=config.parent)
    if not models:
        return
    repository.publish(stick, [it.bundle for it in models])
    for it in models:
        deploy(stick, it.name, it.manifest.version, selector={})
    command = [*AGENT, "install", str(stick), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or any(it.name not in done.stdout for it in models):
        raise RuntimeError(done.stdout + done.stderr)
