"""A small real filesystem that can be filled to its last block; only root can mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from support.waiting import until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a filesystem to fill")

SIZE_BYTES: Final = 64 * 1024**2
#: The block size of all but the smallest filesystems. With 1 KiB, SQLite's shared memory can have holes, and the kernel
#: kills a process that writes to a hole on a full disk.
BLOCK_BYTES: Final = 4096
_PIECE_BYTES: Final = 1024**2


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount an ext4 filesystem from a file at `folder` during the block."""
    folder.mkdir(parents=True)
    with _image(folder).open("wb") as made:
        made.truncate(SIZE_BYTES)
    _run("mkfs.ext4", "-q", "-b", str(BLOCK_BYTES), "-m", "0", str(_image(folder)))
    _mount(folder)
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def fail(folder: Path) -> None:
    """Let the filesystem meet an error of its card: it is read-only at once, also for files that are open."""
    device = Path(_output("findmnt", "-no", "SOURCE", str(folder)))
    Path("/sys/fs/ext4", device.name, "trigger_fs_error").write_text("test")


def repair(folder: Path) -> None:
    """Check and mount it again, after `fail`, once no program uses it: children of a killed one end a moment later."""
    until(lambda: _can_run("umount", str(folder)), f"no program uses {folder}")
    # A board that another test emulates has a copy of all mounts. Until it ends, this file would be read-only again.
    shutil.copyfile(_image(folder), fresh := folder.with_suffix(".fresh"))
    fresh.replace(_image(folder))
    checked = subprocess.run(
        [_found("e2fsck"), "-fy", str(_image(folder))], check=False, capture_output=True, text=True
    )
    # 1: errors were corrected.
    assert checked.returncode <= 1, checked.stdout
    _mount(folder)
    assert "rw" in _output("findmnt", "-no", "OPTIONS", str(folder)).split(",")


def make_read_only(folder: Path) -> None:
    """Remount as the kernel does after an error of the card."""
    # A file that is open for writing keeps the kernel from it, unless by force.
    _run("mount", "-o", "remount,ro", str(folder))


def make_writable(folder: Path) -> None:
    """Remount as an operator does after a repair."""
    _run("mount", "-o", "remount,rw", str(folder))


def fill(folder: Path, *, free_bytes: int = 0) -> Path:
    """Fill the disk but for some bytes, and return the file that does."""
    path, reserved = folder.joinpath("runaway.log"), folder.joinpath("reserved")
    reserved.write_bytes(bytes(free_bytes))
    size = _PIECE_BYTES
    with path.open("wb", buffering=0) as out:
        while size:
            try:
                out.write(os.urandom(size))
            except OSError:
                size //= 2
    reserved.unlink()
    return path


def _image(folder: Path) -> Path:
    return folder.with_suffix(".img")


def _mount(folder: Path) -> None:
    _run("mount", "-o", "loop,errors=remount-ro", str(_image(folder)), str(folder))


def _found(program: str) -> str:
    # Debian installs them where a user's PATH may not reach.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin") or program


def _output(program: str, *arguments: str) -> str:
    return subprocess.run([_found(program), *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _can_run(program: str, *arguments: str) -> bool:
    return not subprocess.run([_found(program), *arguments], check=False, capture_output=True).returncode


def _run(program: str, *arguments: str) -> None:
    subprocess.run([_found(program), *arguments], check=True)
