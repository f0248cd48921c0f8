"""The state of the running agent's connection, in a file of the store: what `edgeml-agent doctor` reads.

The doctor can't connect for itself beside a running agent: a broker that takes client ids from user names would
disconnect the agent.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core import decoding
from edgeml_core.errors import DeviceError, EdgemlError
from edgeml_io import files

FILE_NAME: Final = "link.json"


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """One state: connected, with the rights that the device needs; or with the reason why not.

    `broker` is the address without user and password, `since_s` in seconds since 1970. Without a code an agent that
    isn't connected has just begun to connect.
    """

    broker: str
    connected: bool
    since_s: float
    code: str = ""
    message: str = ""
    hint: str = ""


def failed(broker: str, since_s: float, error: EdgemlError, *, connected: bool) -> LinkState:
    """Return the state after a failure."""
    return LinkState(broker=broker, connected=connected, since_s=since_s, **error.to_dict())


def write(store: Path, state: LinkState) -> None:
    """Write the state into the store's folder.

    Raises:
        DeviceError: `store-failed`.
    """
    try:
        files.write_unsynced(store / FILE_NAME, msgspec.json.encode(state))
    except OSError as error:
        raise DeviceError("store-failed", f"can't write {store / FILE_NAME}: {error}") from error


def clear(store: Path) -> None:
    """Remove the state of an earlier run, which says nothing about the next one."""
    with contextlib.suppress(OSError):
        (store / FILE_NAME).unlink(missing_ok=True)


def read(store: Path) -> LinkState | None:
    """Return the state that the agent wrote last; None where there is none, or none that can be read."""
    try:
        return decoding.from_json((store / FILE_NAME).read_bytes(), LinkState)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
