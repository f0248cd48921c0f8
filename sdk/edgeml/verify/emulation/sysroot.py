"""The system root of a foreign architecture: a folder with its Python and runtimes, run with a board's CPU.

One root serves all boards of an architecture. `prepare.py` makes it once, and nothing writes to it after that. Its
mounts live in a mount namespace of the child, so none outlives the child. A user other than root gets a user namespace.
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
from edgeml_core import decoding
from edgeml_core.profile import Profile
from edgeml_runtime import engines

#: Environment variable that names the folder of all roots. Edgeml writes nowhere else that the user didn't name.
PLACE_VARIABLE: Final = "EDGEML_EMULATION_DIR"
#: The Debian suite of a root, and that suite's Python.
SUITE: Final = "bookworm"
PYTHON_VERSION: Final = "3.11"
PYTHON: Final = f"/usr/bin/python{PYTHON_VERSION}"
STAMP: Final = "edgeml-root.json"
#: Seconds for a namespace to be made; it takes a few milliseconds.
TIMEOUT_S: Final = 30.0
#: Where the bundle's folder is mounted in the root.
BUNDLE: Final = "/bundle"
#: Folders that the mounts need; `/qemu` is a file.
FOLDERS: Final = ("proc", "sys", "dev", "tmp", "edgeml/edgeml_core", "edgeml/edgeml_runtime", "bundle", "site")
#: Packages that edgeml_core and edgeml_runtime import, besides the runtimes.
_PACKAGES: Final = ("msgspec", "numpy", "pillow", "tokenizers", "zstandard")

#: The script that mounts the root and runs a command in it; its arguments are in the script.
_ENTER: Final = Path(__file__).with_name("enter.sh")


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The suite and the pinned packages in a root."""

    suite: str
    packages: tuple[str, ...]


def is_native(profile: Profile) -> bool:
    """Return whether the target has this machine's architecture, so that it needs no root."""
    return profile.cpu.arch == platform.machine()


def folder(arch: str) -> Path:
    """Return the folder of the root of `arch`, which need not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(PLACE_VARIABLE) or cache / "edgeml" / "emulation").absolute() / arch


def unready(profile: Profile) -> str:
    """Explain why the root can't be used, with the remedy; empty when it can."""
    if why := board.problem(profile) or namespace_problem():
        return why
    found, remedy = installed(folder(profile.cpu.arch)), f"run `edgeml target prepare {profile.name}`"
    if found is None:
        return f"there is no {profile.cpu.arch} root yet: {remedy}"
    if found != required():
        return f"the {profile.cpu.arch} root has other versions than this machine: {remedy}"
    return ""


def required() -> Contents:
    """List the contents of a root made now. Its versions are those with which this machine exports."""
    runtimes = [_first_installed(names) for names in engines.DISTRIBUTIONS.values()]
    names = [*_PACKAGES, *(name for name in runtimes if name)]
    return Contents(suite=SUITE, packages=tuple(sorted(f"{name}=={metadata.version(name)}" for name in names)))


def _first_installed(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    return None


def installed(root: Path) -> Contents | None:
    """Read the contents of a root; None when there is no root."""
    try:
        return decoding.from_json((root / STAMP).read_bytes(), Contents)
    except (OSError, msgspec.MsgspecError):
        return None


def namespace_problem() -> str:
    """Explain why this process may not mount in a namespace of its own; empty when it may."""
    try:
        subprocess.run([*_namespace(), "true"], capture_output=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "this system forbids mounts in a namespace of your own: run as root, outside a container"
    return ""


@contextmanager
def python_command(
    profile: Profile, bundle: Path, *, root: Path | None = None, write_bytecode: bool = False
) -> Iterator[list[str]]:
    """Build the command that starts the root's Python on the board's CPU; its arguments are to follow.

    Args:
        profile: the target.
        bundle: the folder that is mounted at `BUNDLE`.
        root: instead of the architecture's own.
        write_bytecode: whether Python may cache compiled modules in the root.
    """
    emulator = qemu.binary(profile.cpu.arch)
    with tempfile.TemporaryDirectory(prefix="edgeml-board-") as name:
        board.write(profile, Path(name))
        mounts = (root or folder(profile.cpu.arch), name, _packages(), bundle.absolute(), emulator)
        python = [PYTHON, *([] if write_bytecode else ["-B"])]
        yield [
            *_namespace(), "sh", str(_ENTER), *map(str, mounts),
            "/qemu", "-cpu", profile.cpu.emulator, *_settings(), *python,
        ]  # fmt: skip


def _namespace() -> Sequence[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", "--propagation", "private"]


def _settings() -> list[str]:
    return ["-E", "PYTHONPATH=/edgeml:/site", "-E", "HOME=/tmp", "-E", "TMPDIR=/tmp", "-E", "LC_ALL=C.UTF-8"]


def _packages() -> Path:
    """Return the folder of edgeml_core and edgeml_runtime, installed or as source."""
    return Path(edgeml_core.__file__).parents[1]
