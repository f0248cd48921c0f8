"""Write files that survive a power cut, and read files of unknown origin without a hang or a flood of memory.

A write syncs the content before the name, and the name before anything relies on it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

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


def open_regular(path: Path, *, follows_link: bool = False) -> BinaryIO:
    """Open a file of unknown origin for reading, if it is a regular file: a pipe would hang, and a device never ends.

    Raises:
        OSError: it can't be opened, is no regular file, or is a link that isn't to be followed.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follows_link else os.O_NOFOLLOW)
    handle = os.open(path, flags)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`; see `open_regular`."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"longer than {max_bytes} bytes", str(path))
    return data
