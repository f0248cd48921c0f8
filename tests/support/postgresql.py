"""A real PostgreSQL server in a folder, for the time of a `with` block. Root runs it as another user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 60.0
USER: Final = "postgres"
_INSTALLED: Final = Path("/usr/lib/postgresql")


@dataclass
class Server:
    """A running server; `stop`, `kill` and `start` keep its folder."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for `--database`: the socket is in the folder."""
        return f"postgresql:///postgres?host={self.folder}&user={USER}"

    def start(self) -> None:
        """Start the process, and return when it takes connections."""
        options = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off")
        command = _as_user((program("postgres"), "-D", str(self.folder / "data"), *options))
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_TIMEOUT_S
        while subprocess.run((program("pg_isready"), "-q", "-h", str(self.folder)), check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL didn't start: {(self.folder / 'server.log').read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End all sessions and the process."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the process and its children at once, as the loss of power does."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, how)
            self.process.wait(STOP_TIMEOUT_S)
            self.process = None


@contextmanager
def postgresql() -> Iterator[Server]:
    """Run a server with an empty database. Its folder is made, as a socket's path may have 107 bytes only."""
    folder = Path(tempfile.mkdtemp(prefix="edgeml-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, USER, USER)
        initialize = (program("initdb"), "-D", str(folder / "data"), "-U", USER, "-A", "trust", "--no-sync")
        # Not the order of bytes, as on most servers.
        locale = ("-E", "UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en")
        subprocess.run(_as_user((*initialize, *locale)), check=True, capture_output=True, cwd=folder)
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def program(name: str) -> str:
    """Return the path of a program of the newest PostgreSQL here; Debian keeps them out of the path."""
    found = sorted(_INSTALLED.glob(f"*/bin/{name}"), key=lambda it: int(it.parts[-3]))
    if not found:
        raise RuntimeError("these tests need the database: apt-get install postgresql")
    return str(found[-1])


def _as_user(command: Sequence[str]) -> tuple[str, ...]:
    """PostgreSQL refuses to run as root."""
    return ("runuser", "-u", USER, "--", *command) if os.geteuid() == 0 else tuple(command)
