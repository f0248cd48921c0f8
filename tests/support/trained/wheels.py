"""Wheels of the package index, unpacked into the test cache without their dependencies."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

from support import cache


def folder(requirement: str) -> Path:
    """Return the folder of an unpacked wheel, such as that of `magika==1.0.1`."""

    def make(place: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", place, requirement], check=True)
        (wheel,) = place.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(place)
        wheel.unlink()

    with cache.kept(f"wheel-{requirement.replace('==', '-')}", make) as place:
        return place


def file(requirement: str, path: str, sha256: str) -> Path:
    """Return a file of a wheel.

    Raises:
        AssertionError: the file has another digest.
    """
    found = folder(requirement) / path
    assert hashlib.sha256(found.read_bytes()).hexdigest() == sha256, f"{requirement} has another {path}"
    return found


@contextmanager
def imported(name: str, requirements: Sequence[str], absent: Sequence[str] = ()) -> Iterator[ModuleType]:
    """Import a package from unpacked wheels for a while.

    Args:
        name: of the package.
        requirements: the wheels.
        absent: packages that it imports and that the calls of the test don't use; empty modules stand for them.
    """
    paths = [str(folder(it)) for it in requirements]
    stand_ins = {it: ModuleType(it) for it in absent if it not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        with mock.patch.object(sys, "path", [*paths, *sys.path]):
            yield importlib.import_module(name)
    finally:
        for it in stand_ins:
            del sys.modules[it]
