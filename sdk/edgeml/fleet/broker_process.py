"""Mosquitto as a child of `edgeml fleet serve`: started, watched, restarted with a back-off, and ended with the host.

Its configuration is made by `edgeml.repository.broker_folder`. Its log lines become events.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, NoReturn

from edgeml.fleet.recorder import Events
from edgeml.repository import broker_folder
from edgeml.repository.broker_config import BrokerSettings
from edgeml_core.errors import TransportError, UsageError
from edgeml_io import backoff

#: Debian installs it where a user's PATH may not reach.
_FURTHER_PATHS: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
#: Seconds until Mosquitto listens; it reads its database first.
START_TIMEOUT_S: Final = 30.0
#: Seconds for it to write its database and end.
STOP_TIMEOUT_S: Final = 20.0
#: Seconds between two looks whether it listens, and whether its access list has changed.
POLL_S: Final = 0.1
WATCH_EVERY_S: Final = 1.0
#: Seconds before the first restart, and the longest wait.
RESTART_FIRST_S: Final = 0.5
RESTART_MAX_S: Final = 30.0
#: Lines of its log that an error repeats.
_QUOTED_LINES: Final = 5
#: Seconds for the broker of a host that was killed to write its database and free the port.
PORT_TIMEOUT_S: Final = 10.0
#: Linux's prctl option for the signal that comes when the parent dies.
_PR_SET_PDEATHSIG: Final = 1
#: Loaded before any fork: a child of a program with threads may take no lock.
_LIBC: Final = ctypes.CDLL(None)


class BrokerProcess:
    """One Mosquitto, by its configuration's folder.

    Args:
        folder: made by `broker_folder.write`.
        settings: those that the folder was made with.
        events: receives its log lines, and its restarts.
    """

    def __init__(self, folder: Path, settings: BrokerSettings, events: Events) -> None:
        self._folder = folder
        self._port = settings.port
        # A process that changes its user itself would lose the signal of its parent's death.
        is_other = os.geteuid() == 0 and settings.user != pwd.getpwuid(0).pw_name
        group = pwd.getpwnam(settings.user).pw_gid if is_other else None
        self._as_user: dict[str, Any] = {"user": settings.user, "group": group, "extra_groups": ()} if is_other else {}
        self._events = events
        self._program = _program()
        self._log: deque[str] = deque(maxlen=_QUOTED_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        #: The stamp of the files that it has read, from before it did.
        self._seen: tuple[int, ...] = ()

    async def start(self) -> None:
        """Start it, and return when it listens.

        Raises:
            TransportError: `broker-unreachable`, when it ends or doesn't listen in time; with the end of its log.
        """
        began_s = time.monotonic()
        while is_taken := await self._listens():
            if time.monotonic() - began_s > PORT_TIMEOUT_S:
                break
            await asyncio.sleep(POLL_S)
        if is_taken:
            message = f"another program listens on port {self._port}, where the broker should"
            raise TransportError("broker-unreachable", message, "stop it, or choose a port: --with-broker NAME:PORT")
        await asyncio.to_thread(broker_folder.prune, self._folder)
        self._log.clear()
        self._seen = self._stamp()
        arguments = (self._program, "-c", str(self._folder / broker_folder.CONF_FILE))
        self._process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "OPENSSL_CONF": str(self._folder / broker_folder.OPENSSL_FILE)},
            start_new_session=True,  # Ctrl-C ends the host, which then ends its broker
            preexec_fn=_end_with_parent,
            **self._as_user,
        )
        self._reader = asyncio.create_task(self._read_log(self._process))
        began_s = time.monotonic()
        while not await self._listens():
            if self._process.returncode is not None or time.monotonic() - began_s > START_TIMEOUT_S:
                await self.stop()
                message = f"Mosquitto doesn't start: {'; '.join(self._log) or 'it wrote no log'}"
                hint = f"see its configuration in {self._folder}"
                raise TransportError("broker-unreachable", message, hint)
            await asyncio.sleep(POLL_S)

    async def run(self) -> NoReturn:
        """Restart it whenever it ends, and let it read its access list when that changes, until cancelled."""
        waits = backoff.Backoff(RESTART_FIRST_S, RESTART_MAX_S)
        waits.began()
        while True:
            assert self._process is not None  # noqa: S101 - the caller has started it
            if self._process.returncode is None:
                await asyncio.sleep(WATCH_EVERY_S)
                if (stamp := self._stamp()) != self._seen:
                    self._seen = stamp
                    self.reload()
                continue
            code = self._process.returncode
            self._events.event("broker-ended", f"Mosquitto has ended with code {code}; starting it again", code=code)
            await waits.wait()
            try:
                await self.start()
                waits.began()
            except TransportError as error:
                self._events.event("broker-failed", error.message, **error.to_dict())

    def reload(self) -> None:
        """Let it read its access list and its certificate again; connections of permitted clients stay."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End it; it writes its retained messages and sessions to the disk first."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            if process.returncode is None:
                process.kill()
        await process.wait()
        if self._reader is not None:
            await self._reader

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        while line := await process.stdout.readline():
            text = line.decode(errors="replace").strip().partition(": ")[2]  # without the time
            self._log.append(text)
            self._events.event("broker", f"broker: {text}", line=text)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    def _stamp(self) -> tuple[int, ...]:
        names = (broker_folder.ACL_FILE, broker_folder.CERTIFICATE_FILE)
        return tuple((self._folder / name).stat().st_mtime_ns for name in names)


def _program() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=_FURTHER_PATHS)
    if found is None:
        hint = "install it, on Debian by `apt-get install mosquitto`, or name a running broker with --broker"
        raise UsageError("extra-missing", "Mosquitto is not installed here", hint)
    return found


def _end_with_parent() -> None:
    """Let the kernel end this child when the host dies, even by SIGKILL: its successor needs the port."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
