"""Folders that are expensive to make, kept outside the clone and shared by all test runs of this user.

EDGEML_TEST_CACHE=DIR  holds them; otherwise `edgeml-tests` in the user's cache folder

A folder is made again when its stamp differs: the hash of constraints.txt, pyproject.toml, the Python version, and the
files that it is made from.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

ROOT: Final = Path(__file__).parents[2]
VARIABLE: Final = "EDGEML_TEST_CACHE"
STAMP: Final = "stamp"


def folder() -> Path:
    """Return the cache's folder; it is made where it is missing."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = Path(os.environ.get(VARIABLE) or user / "edgeml-tests").absolute()
    found.mkdir(parents=True, exist_ok=True)
    return found


def stamp(sources: Sequence[Path] = ()) -> str:
    """Return the hash of the installed versions, and of the files that a folder is made from."""
    parts = [path.read_bytes() for path in (ROOT / "constraints.txt", ROOT / "pyproject.toml", *sources)]
    return hashlib.sha256(b"\0".join([*parts, platform.python_version().encode()])).hexdigest()


@contextmanager
def kept(name: str, make: Callable[[Path], object], sources: Sequence[Path] = ()) -> Iterator[Path]:
    """Lend a folder of the cache; no other process uses it during the block.

    Args:
        name: the folder's.
        make: fills the empty folder. It runs only where the folder is missing, unfinished or stale.
        sources: the files that it is made from.
    """
    place = folder() / name
    with FileLock(place.with_name(f"{name}.lock")):
        if not is_fresh(place, sources):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            make(place)
            (place / STAMP).write_text(stamp(sources))
        yield place


def is_fresh(place: Path, sources: Sequence[Path] = ()) -> bool:
    """Return whether a folder was finished, with the stamp that it would get now."""
    try:
        return (place / STAMP).read_text() == stamp(sources)
    except OSError:
        return False
