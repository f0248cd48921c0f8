"""Locks between processes: one agent per store, one update and one refresh of the signed files at a time.

The kernel releases a lock when its process ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from edgeml_core.errors import DeviceError

#: Lock files: held by a running agent; by an update; by a refresh of the signed files.
AGENT: Final = "agent.lock"
UPDATE: Final = "update.lock"
TRUST: Final = "trust.lock"


def take(path: Path) -> BinaryIO | None:
    """Lock the file at `path` and return it, locked until closed; None if another process holds it.

    Raises:
        DeviceError: `store-failed`, when the file can't be made.
    """
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file at `path`. No file is made, and reading it suffices.

    Raises:
        DeviceError: `store-failed`, when the file can't be read.
    """
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        hint = "run the command as the agent's user"
        raise DeviceError("store-failed", f"can't read {path}: {error}", hint) from error
    return False


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for the lock file at `path`, and hold it in the block.

    Raises:
        DeviceError: `store-failed`, when the file can't be made.
    """
    with _open(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        if error.errno == errno.EROFS and path.exists():
            return path.open("rb")  # a lock needs no writing
        raise DeviceError(
            "store-failed", f"can't make {path}: {error}", "check that [store] dir is writable"
        ) from error
