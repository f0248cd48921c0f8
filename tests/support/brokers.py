"""Real MQTT brokers on free loopback ports, for the time of a `with` block.

`mosquitto` is a process of its own; `embedded` is amqtt (MQTT 3.1.1 only) on an event loop in a thread. Nothing here
publishes or subscribes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.ports import free_port
from support.waiting import TIMEOUT_S

OPEN: Final = "allow_anonymous true"


@dataclass
class Mosquitto:
    """A running Mosquitto; `stop` and `start` again keep its port and, with persistence, its folder."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    openssl_conf: Path | None = None

    @property
    def url(self) -> str:
        """The address for `--broker`."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        if self.process is None:
            raise RuntimeError("mosquitto doesn't run")
        return self.process.pid

    @property
    def log(self) -> str:
        """Its log."""
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def start(self) -> None:
        """Start the process, and return when it listens."""
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program(), "-c", str(self.folder / "mosquitto.conf")],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | ({"OPENSSL_CONF": str(self.openssl_conf)} if self.openssl_conf else {}),
            )
        deadline = time.monotonic() + TIMEOUT_S
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"mosquitto didn't start: {self.log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the process as an operator does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(TIMEOUT_S)
            self.process = None

    def kill(self) -> None:
        """Send SIGKILL: data that wasn't written to its folder is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(TIMEOUT_S)
            self.process = None


@contextmanager
def mosquitto(folder: Path, config: str = OPEN) -> Iterator[Mosquitto]:
    """Run a Mosquitto that listens on a free loopback port.

    Args:
        folder: for its configuration and log; made when it is missing.
        config: lines of `mosquitto.conf` that follow the listener's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    broker = Mosquitto(folder, free_port())
    # As root, Mosquitto would change to a user that can't read a test's folder.
    (folder / "mosquitto.conf").write_text(f"user root\nlistener {broker.port} 127.0.0.1\n{config}\n")
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextmanager
def embedded() -> Iterator[str]:
    """Run an amqtt broker without authentication, and lend its URL."""
    port, loop, ready, stop = free_port(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(_run_embedded(port, ready, stop))
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            failures.append(error)
            ready.set()
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="amqtt", daemon=True)
    thread.start()
    try:
        if not ready.wait(TIMEOUT_S) or failures:
            raise RuntimeError(f"amqtt didn't start: {failures}")
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)


async def _run_embedded(port: int, ready: threading.Event, stop: asyncio.Event) -> None:
    from amqtt.broker import Broker  # noqa: PLC0415 - slow to import, and most tests use Mosquitto

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    ready.set()
    await stop.wait()
    await broker.shutdown()


def program() -> str:
    """Return the path of Mosquitto's program."""
    # Debian installs it where a user's PATH may not reach.
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("these tests need the broker: apt-get install mosquitto")
    return program


def listens(port: int) -> bool:
    """Return whether a program listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
