"""A Python with timm, and with all that this one has.

timm needs torchvision, which the package index has for torch with CUDA only. Beside the CPU build transformers can't be
imported by itself, so timm stays out of the environment of all other tests.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support import cache

PACKAGES: Final = ("timm", "torchvision")


@contextmanager
def python() -> Iterator[Path]:
    """Lend the interpreter; the test cache keeps its environment."""
    with cache.kept("timm", _make, [Path(__file__), Path(sys.prefix, "pyvenv.cfg")]) as folder:
        yield folder / "bin/python"


def _make(folder: Path) -> None:
    venv.create(folder, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps"]
    subprocess.run([*pip, "--constraint", cache.ROOT / "constraints.txt", "--target", site, *PACKAGES], check=True)
    # After timm's own packages, and with the .pth files of the other environment.
    (site / "rest.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
