"""Write files that survive a power cut: sync the content before the name, and the name before anything relies on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Permission bits of a new file, before the umask.
_FILE_MODE: Final = 0o666


def write(path: Path, data: bytes, *, mode: int = _FILE_MODE) -> None:
    """Replace `path` by `data`: after a power cut it is the old content or the new, never a part of one."""
    write_unsynced(path, data, mode=mode)
    sync(path.parent)


def write_unsynced(path: Path, data: bytes, *, mode: int = _FILE_MODE) -> None:
    """Replace `path` by `data` without syncing its name: for many files, followed by one `sync` of their folder."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # a power cut may have left it, with other permissions
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(handle)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync one file, or the names in one folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`, and `folder` itself."""
    for inner, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(inner, name))
        sync(Path(inner))
