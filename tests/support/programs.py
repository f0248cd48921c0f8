"""The programs under test as child processes, each with its log in a file: host, agents, and other commands."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeml import repository
from support.waiting import TIMEOUT_S

#: The port that the system chooses; the agent logs it.
ANY_PORT = "127.0.0.1:0"


def host_command(repo: Path, broker_url: str) -> tuple[str, ...]:
    """Return Python's arguments for `edgeml fleet serve`."""
    return "-m", "edgeml", "fleet", "serve", "--repo", str(repo), "--broker", broker_url


def agent_command(config: Path) -> tuple[str, ...]:
    """Return Python's arguments for `edgeml-agent run`."""
    return "-m", "edgeml_agent", "run", "--config", str(config)


class Program:
    """A child process of this Python.

    Args:
        log: the file that its output is added to.
        command: Python's arguments.
    """

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=out)

    def kill(self) -> None:
        """Send SIGKILL, which leaves no chance to clean up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM as a service manager does, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


class Programs(list[Program]):
    """Programs that end together."""

    def start(self, log: Path, *command: str) -> Program:
        """Start one more."""
        self.append(Program(log, *command))
        return self[-1]


@contextmanager
def programs() -> Iterator[Programs]:
    """Collect programs; those that run at the end of the block are killed."""
    started = Programs()
    try:
        yield started
    finally:
        for program in started:
            program.kill()


def enroll(repo: Path, device: str, broker_url: str | None, folder: Path, *, http: str = ANY_PORT) -> Path:
    """Enroll a device without labels, and return its agent.toml.

    Args:
        http: where its agent listens.
    """
    repository.enroll(repo, device, labels={}, broker_url=broker_url, out_dir=folder)
    return listen_at(folder / "agent.toml", http)


def listen_at(config: Path, http: str = ANY_PORT) -> Path:
    """Write into an agent.toml where the agent listens, and return its path."""
    config.write_text(re.sub(r'http = ".*"', f'http = "{http}"', config.read_text()))
    return config
