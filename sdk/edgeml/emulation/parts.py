"""What a root is made of: which Debian, and the Python packages in the versions that this machine has."""

from __future__ import annotations

from importlib import metadata
from typing import Final

import msgspec

from edgeml_runtime import engines

SUITE: Final = "bookworm"
#: What Python needs to start, and the runtimes to load; everything else in Debian is left out.
DEBIAN: Final = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
#: The suite's Python and C library: wheels are chosen for them.
PYTHON_VERSION: Final = "3.11"
GLIBC_MINOR: Final = 36
#: What edgeml_core and edgeml_runtime import, besides the runtimes.
_PACKAGES: Final = ("msgspec", "numpy", "pillow", "tokenizers", "zstandard")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a root holds: the suite and the pinned packages."""

    suite: str
    packages: tuple[str, ...]


def wanted() -> Parts:
    """What a root made here and now would hold: the proof is of the versions that this machine exports with."""
    runtimes = [_first_installed(names) for names in engines.DISTRIBUTIONS.values()]
    names = [*_PACKAGES, *(name for name in runtimes if name)]
    return Parts(suite=SUITE, packages=tuple(sorted(f"{name}=={metadata.version(name)}" for name in names)))


def _first_installed(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    return None
