"""Folders that are expensive to make, kept outside the clone and shared by all test runs of this user.

EDGEML_TEST_CACHE=DIR  holds them; otherwise `edgeml-tests` in the user's cache folder

A folder's name ends with its stamp: the hash of constraints.txt, pyproject.toml, the Python version, and the folder's
sources. With another stamp it is made again; clones with different stamps don't disturb each other.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

ROOT: Final = Path(__file__).parents[2]
VARIABLE: Final = "EDGEML_TEST_CACHE"
#: Lies in a folder that is finished.
FINISHED: Final = "finished"
#: Characters of the stamp in a folder's name: enough to tell the few stamps of a user apart.
STAMP_CHARS: Final = 16
#: Seconds after its last use in which a folder with another stamp stays: somebody may be back on that branch.
UNUSED_MAX_S: Final = 7 * 24 * 3600.0


def folder() -> Path:
    """Return the cache's folder; it is made where it is missing."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = Path(os.environ.get(VARIABLE) or user / "edgeml-tests").absolute()
    found.mkdir(parents=True, exist_ok=True)
    return found


def stamp(sources: Sequence[Path] = ()) -> str:
    """Return the hash of the installed versions, and of the files that a folder is made from."""
    parts = [path.read_bytes() for path in (ROOT / "constraints.txt", ROOT / "pyproject.toml", *sources)]
    return hashlib.sha256(b"\0".join([*parts, platform.python_version().encode()])).hexdigest()[:STAMP_CHARS]


@contextmanager
def kept(name: str, make: Callable[[Path], object], sources: Sequence[Path] = ()) -> Iterator[Path]:
    """Lend a folder of the cache; no other process uses it during the block.

    Args:
        name: the folder's.
        make: fills the empty folder. It runs only where the folder is missing or unfinished.
        sources: the files that it is made from.
    """
    place = folder() / f"{name}-{stamp(sources)}"
    lock = place.with_name(f"{place.name}.lock")
    with FileLock(lock):
        lock.touch()
        if not (place / FINISHED).exists():
            _remove_unused(name)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            make(place)
            (place / FINISHED).touch()
        yield place


def _remove_unused(name: str) -> None:
    """Remove the folders of a name that nobody has used for a week."""
    for lock in folder().glob(f"{name}-{'?' * STAMP_CHARS}.lock"):
        if time.time() - lock.stat().st_mtime > UNUSED_MAX_S:
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
