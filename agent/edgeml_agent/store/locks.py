"""Locks between processes: one agent a store, one update and one look at the signed files at a time.

The kernel frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from edgeml_core.errors import DeviceError

#: Held by the agent as long as it runs, by whoever goes the way of an update, by whoever judges signed files.
AGENT: Final = "agent.lock"
UPDATE: Final = "update.lock"
TRUST: Final = "trust.lock"


def take(path: Path) -> BinaryIO | None:
    """The lock file at `path`, locked until it is closed; None when another process holds it.

    Raises:
        DeviceError: `store-failed`, when the file can't be made.
    """
    lock = _opened(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, after waiting for whoever holds it.

    Raises:
        DeviceError: `store-failed`, when the file can't be made.
    """
    with _opened(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise DeviceError("store-failed", f"{path} can't be made: {error}", "check [store] dir") from error
