"""Locks between processes: one agent a store, one update at a time, also beside `edgeml-agent install`.

The kernel frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import BinaryIO, Final

from edgeml_core.errors import DeviceError

#: Held by the agent as long as it runs, and by whoever goes the way of an update.
AGENT: Final = "agent.lock"
UPDATE: Final = "update.lock"


def take(path: Path) -> BinaryIO | None:
    """The lock file at `path`, locked until it is closed; None when another process holds it.

    Raises:
        DeviceError: `store-failed`, when the file can't be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    except OSError as error:
        raise DeviceError("store-failed", f"{path} can't be made: {error}", "check [store] dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
