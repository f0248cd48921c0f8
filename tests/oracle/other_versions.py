"""Environments with other versions of the models' own libraries; the test cache keeps them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support import cache

#: Installed first, by itself: a plain requirement on it would take a build with gigabytes of CUDA.
TORCH: Final = "torch==2.13.0"
#: By environment: what its folders are saved and judged by.
VERSIONS: Final = {
    "transformers-5": ("transformers==5.24.0", "sentence-transformers==5.7.0"),
    "sentence-transformers-4": ("transformers==4.57.6", "sentence-transformers==4.1.0"),
}


@contextmanager
def python(name: str) -> Iterator[Path]:
    """Lend the Python of an environment, with edgeml of this checkout."""
    with cache.kept(name, lambda folder: _make(folder, name), [Path(__file__)]) as folder:
        _install(folder, "--no-deps", "--editable", str(cache.ROOT))
        yield folder / "bin/python"


def _make(folder: Path, name: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    _install(folder, TORCH)
    _install(folder, *VERSIONS[name], "pillow", "--editable", str(cache.ROOT))


def _install(folder: Path, *what: str) -> None:
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile", *what], check=True)
