"""A small real filesystem that can be filled to its last block; only root can mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SIZE_BYTES: Final = 64 * 1024**2
#: The block size of all but the smallest filesystems. With 1 KiB, SQLite's shared memory can have holes, and the kernel
#: kills a process that writes to a hole on a full disk.
BLOCK_BYTES: Final = 4096
_PIECE_BYTES: Final = 1024**2


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount an ext4 filesystem from a file at `folder` during the block."""
    folder.mkdir(parents=True)
    image = folder.with_suffix(".img")
    with image.open("wb") as made:
        made.truncate(SIZE_BYTES)
    _run("mkfs.ext4", "-q", "-b", str(BLOCK_BYTES), "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def make_read_only(folder: Path) -> None:
    """Remount as the kernel does after an error of the card."""
    # A file that is open for writing keeps the kernel from it, unless by force.
    _run("mount", "-o", "remount,ro", str(folder))


def make_writable(folder: Path) -> None:
    """Remount as an operator does after a repair."""
    _run("mount", "-o", "remount,rw", str(folder))


def fill(folder: Path) -> Path:
    """Fill the disk to its last block, and return the file that does."""
    path = folder.joinpath("runaway.log")
    size = _PIECE_BYTES
    with path.open("wb", buffering=0) as out:
        while size:
            try:
                out.write(os.urandom(size))
            except OSError:
                size //= 2
    return path


def _run(program: str, *arguments: str) -> None:
    # Debian installs them where a user's PATH may not reach.
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    subprocess.run([found or program, *arguments], check=True)
