"""The root of a foreign architecture: a folder with its Python and runtimes, entered with the board's CPU around it.

One root serves all boards of an architecture. It is made once (`prepare.py`) and never written to after that. Binds
live in a mount namespace of the child's own, so none outlives it; users other than root enter by a user namespace.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

import edgeml_core
from edgeml.verify import board
from edgeml.verify.emulation import qemu
from edgeml_core.profile import Profile
from edgeml_runtime import engines

#: Where the roots lie; the one place outside the folders named on the command line that edgeml writes to.
PLACE_VARIABLE: Final = "EDGEML_EMULATION_DIR"
#: The Debian suite that it is made of, and that suite's Python.
SUITE: Final = "bookworm"
PYTHON_VERSION: Final = "3.11"
PYTHON: Final = f"/usr/bin/python{PYTHON_VERSION}"
STAMP: Final = "edgeml-root.json"
TIMEOUT_S: Final = 30.0
#: Folders that the binds need; `/qemu` is a file.
FOLDERS: Final = ("proc", "sys", "dev", "tmp", "edgeml/edgeml_core", "edgeml/edgeml_runtime", "bundle", "site")
#: What edgeml_core and edgeml_runtime import, besides the runtimes.
_PACKAGES: Final = ("msgspec", "numpy", "pillow", "tokenizers", "zstandard")

#: $1 the root, $2 the board's files, $3 the packages, $4 the bundle, $5 qemu; then what is run in the root.
#: The board's /proc/cpuinfo hides the host's and its CPU list stands in /sys: from them the runtimes choose kernels.
_ENTER: Final = """
set -e
mount --rbind /proc "$1/proc"
mount --bind "$2/cpuinfo" "$1/proc/cpuinfo"
mount --bind "$2/sys" "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$3/edgeml_core" "$1/edgeml/edgeml_core"
mount --bind "$3/edgeml_runtime" "$1/edgeml/edgeml_runtime"
mount --bind "$4" "$1/bundle"
mount --bind "$5" "$1/qemu"
root=$1
shift 5
exec chroot "$root" "$@"
"""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a root holds: the suite and the pinned packages."""

    suite: str
    packages: tuple[str, ...]


def native(profile: Profile) -> bool:
    """Whether the target's architecture is this machine's, so that it needs no root."""
    return profile.cpu.arch == platform.machine()


def folder(arch: str) -> Path:
    """Where the root of `arch` lies, or would."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(PLACE_VARIABLE) or cache / "edgeml" / "emulation").absolute() / arch


def unready(profile: Profile) -> str:
    """Why the root can't be used; empty when it can."""
    if why := board.problem(profile) or closed():
        return why
    found, prepare = held(folder(profile.cpu.arch)), f"run `edgeml target prepare {profile.name}`"
    if found is None:
        return f"there is no {profile.cpu.arch} root yet: {prepare}"
    if found != wanted():
        return f"the {profile.cpu.arch} root has other versions than this machine: {prepare}"
    return ""


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


def held(root: Path) -> Parts | None:
    """What the root holds; None when there is none."""
    try:
        return msgspec.json.decode((root / STAMP).read_bytes(), type=Parts)
    except (OSError, msgspec.MsgspecError):
        return None


def closed() -> str:
    """Why this process may not enter a root; empty when it may."""
    try:
        subprocess.run([*_namespace(), "true"], capture_output=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "this system lets no process of yours mount in a namespace of its own: run as root, outside a container"
    return ""


@contextmanager
def entered(profile: Profile, bundle: Path, *, root: Path | None = None) -> Iterator[list[str]]:
    """The command that proves the bundle in a folder; good as long as the context lasts."""
    with entrance(profile, bundle, root=root) as command:
        yield [*command, "-m", "edgeml_runtime.verify.child", "/bundle"]


@contextmanager
def entrance(
    profile: Profile, bundle: Path, *, root: Path | None = None, write_bytecode: bool = False
) -> Iterator[list[str]]:
    """The command that starts the root's Python on the board's CPU, ready for its arguments."""
    emulator = qemu.binary(profile.cpu.arch)
    with tempfile.TemporaryDirectory(prefix="edgeml-board-") as name:
        board.write(profile, Path(name))
        places = (root or folder(profile.cpu.arch), name, _packages(), bundle.absolute(), emulator)
        python = [PYTHON, *([] if write_bytecode else ["-B"])]
        yield [
            *_namespace(), "sh", "-c", _ENTER, "sh", *map(str, places),
            "/qemu", "-cpu", profile.cpu.emulator, *_settings(), *python,
        ]  # fmt: skip


def _namespace() -> Sequence[str]:
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *rights, "--mount", "--propagation", "private"]


def _settings() -> list[str]:
    return ["-E", "PYTHONPATH=/edgeml:/site", "-E", "HOME=/tmp", "-E", "TMPDIR=/tmp", "-E", "LC_ALL=C.UTF-8"]


def _packages() -> Path:
    """The folder that edgeml_core and edgeml_runtime stand in, installed or as source."""
    return Path(edgeml_core.__file__).parents[1]
