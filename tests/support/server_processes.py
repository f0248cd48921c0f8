"""Servers as processes: started until they are ready; the memory and CPU time of their whole tree of processes."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.waiting import TIMEOUT_S

STOP_MAX_S: Final = 15.0
LOOK_EVERY_S: Final = 0.005
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: its process, its port, and the seconds until it was ready."""

    pid: int
    port: int
    ready_s: float

    def pss_bytes(self) -> int:
        """Return the memory of the whole tree; shared pages count once."""
        return sum(memory_bytes(pid, "Pss") for pid in _tree(self.pid))

    def cpu_s(self) -> float:
        """Return the CPU time of the whole tree so far."""
        return sum(_cpu_s(pid) for pid in _tree(self.pid))


@contextmanager
def running(
    command: Sequence[str | Path], port: int, ready: str, log: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[Server]:
    """Run a server for the time of a block, which begins when `GET ready` is answered 200."""
    with log.open("ab") as out:
        begun_s = time.perf_counter()
        process = subprocess.Popen(
            [str(it) for it in command], stdout=out, stderr=out, env=environment, start_new_session=True
        )
        try:
            while not _is_ready(port, ready):
                if process.poll() is not None or time.perf_counter() - begun_s > TIMEOUT_S:
                    raise RuntimeError(f"{command} isn't ready: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(LOOK_EVERY_S)
            yield Server(pid=process.pid, port=port, ready_s=time.perf_counter() - begun_s)
        finally:
            _stop(process)


def memory_bytes(pid: int, field: str) -> int:
    """Return a field of Linux's smaps_rollup, such as `Pss` or `Rss`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _is_ready(port: int, path: str) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", path)
        return link.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def _tree(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = " ".join((task / "children").read_text() for task in tasks).split()
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS_PER_S


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process as a service manager does; then kill the rest of its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_MAX_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
