"""Files that are wholly there or not at all, also after a power cut: written beside, synced, then renamed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace `path` by `data`; on return it survives a power cut. `mode` is subject to the umask."""
    write_unlinked(path, data, mode=mode)
    sync_folder(path.parent)


def write_unlinked(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """As `write`, but the name may not survive yet: for many files, followed by one `sync_folder`."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(handle)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
