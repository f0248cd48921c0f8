"""The system root of a foreign architecture, made: Debian's Python, the runtimes' wheels, and a test run of both.

Nothing of Debian is installed or run here: apt fetches and checks the packages, dpkg-deb unpacks them. The root is
made in a temporary folder and moved to its place after its test run, so a half-made root is never used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeml.child_process import STDERR_SHOWN_CHARS, environment
from edgeml.verify import board, verification
from edgeml.verify.emulation import qemu, sysroot
from edgeml_core.errors import DeviceError, TransportError, UsageError
from edgeml_core.profile import Profile
from edgeml_runtime import engines

#: Seconds for each step: downloads over a slow link, unpacking on a slow disk, imports under emulation.
APT_TIMEOUT_S: Final = 900.0
PIP_TIMEOUT_S: Final = 1800.0
UNPACK_TIMEOUT_S: Final = 120.0
IMPORT_TIMEOUT_S: Final = 600.0
#: The package that brings each tool, for the hint.
TOOLS: Final = {"apt-get": "apt", "dpkg-deb": "dpkg", "unshare": "util-linux", "chroot": "coreutils"}
#: Environment variable that names a mirror of Debian, instead of the one that this machine's apt uses.
MIRROR_VARIABLE: Final = "EDGEML_DEBIAN_MIRROR"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Debian's name for each architecture.
_DEBIAN_ARCH: Final = {"aarch64": "arm64"}
#: Debian packages with which Python starts and the runtimes load; the rest of Debian is left out.
DEBIAN: Final = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
#: Minor versions of the suite's C library and of the oldest that wheels are built for; pip chooses wheels by them.
GLIBC_MINOR: Final = 36
_GLIBC_MINOR_FIRST: Final = 17
_ENGINE_MODULES: Final = {"onnxruntime": "edgeml_runtime.engines.ort", "litert": "edgeml_runtime.engines.litert"}

#: Takes one line of text for each step.
OnStep = Callable[[str], None]


def prepare(profile: Profile, *, force: bool = False, on_step: OnStep = lambda _: None) -> Path | None:
    """Make the system root with which this target can be emulated.

    Args:
        profile: the target.
        force: whether a root with the right contents is made again.
        on_step: called before each step.

    Returns:
        The root; None when this target needs none.

    Raises:
        UsageError: `emulation-missing`, naming the tool that is not installed and the command that installs it.
        TransportError: `download-failed`.
        DeviceError: `disk-full`, when the root can't be written; `runtime-failed`, when its test run fails.
    """
    _check_tools(profile)
    if sysroot.is_native(profile):
        return None
    place = sysroot.folder(profile.cpu.arch)
    if not force and sysroot.installed(place) == sysroot.required():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{place.name}-unfinished-", dir=place.parent) as name:
            root = Path(name) / "root"
            _make(profile, root, on_step)
            if place.exists():
                place.rename(Path(name) / "replaced")
            root.rename(place)
    except OSError as error:
        hint = f"free some space, or name another folder in {sysroot.PLACE_VARIABLE}"
        raise DeviceError("disk-full", f"the root can't be written at {place}: {error}", hint) from error
    return place


def _make(profile: Profile, root: Path, on_step: OnStep) -> None:
    contents = sysroot.required()
    for name in sysroot.FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "qemu").touch()
    on_step(f"fetching Debian {contents.suite}'s Python for {profile.cpu.arch}")
    for package in _fetch(profile.cpu.arch, root.parent / "apt"):
        _run(["dpkg-deb", "-x", package, root], timeout_s=UNPACK_TIMEOUT_S)
    on_step(f"installing {', '.join(contents.packages)}")
    _run(_pip(contents.packages, profile.cpu.arch, root / "site"), timeout_s=PIP_TIMEOUT_S)
    on_step(f"importing the runtimes on a {profile.cpu.core}")
    _import_runtimes(profile, root)
    (root / sysroot.STAMP).write_bytes(msgspec.json.encode(contents))


def _fetch(arch: str, folder: Path) -> list[Path]:
    """Fetch the Debian packages and their dependencies by an apt whose state lies in `folder`."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {sysroot.SUITE} main\n")
    options = {
        "APT::Architecture": _DEBIAN_ARCH[arch],
        "APT::Architectures": _DEBIAN_ARCH[arch],
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
        "Dir::Cache": folder,
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
    }
    apt = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], timeout_s=APT_TIMEOUT_S)
    _run([*apt, "--yes", "--download-only", "install", *DEBIAN], timeout_s=APT_TIMEOUT_S)
    return sorted((folder / "archives").glob("*.deb"))


def _mirror() -> str:
    """Find the mirror that this machine's apt uses; it has the packages of other architectures, too."""
    if configured := os.environ.get(MIRROR_VARIABLE):
        return configured
    command = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=APT_TIMEOUT_S, check=False).stdout.split()
    found = next((uri for uri in listed if uri.rstrip("/").endswith("/debian")), None)
    if found is None:
        hint = f"set {MIRROR_VARIABLE} to the URL of a mirror of Debian"
        raise UsageError("emulation-missing", "this machine's apt names no mirror of Debian", hint)
    return found


def _pip(packages: Sequence[str], arch: str, site: Path) -> list[str | Path]:
    """Build pip's command. It installs wheels only, so no code of theirs runs here."""
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(GLIBC_MINOR, _GLIBC_MINOR_FIRST - 1, -1)]
    return [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-warn-conflicts",
        "--only-binary=:all:", "--implementation=cp", f"--python-version={sysroot.PYTHON_VERSION}",
        *(f"--platform={name}" for name in (*platforms, f"manylinux2014_{arch}")),
        "--target", site, *packages,
    ]  # fmt: skip


def _import_runtimes(profile: Profile, root: Path) -> None:
    """Import the program and every runtime on the emulated CPU. Their bytecode stays in the root for later runs."""
    modules = [verification.PROGRAM, *(_ENGINE_MODULES[engine] for engine in engines.installed())]
    with (
        tempfile.TemporaryDirectory(prefix="edgeml-") as bundle,
        sysroot.python_command(profile, Path(bundle), root=root, write_bytecode=True) as command,
    ):
        code = f"import importlib\nfor name in {modules}: importlib.import_module(name)"
        try:
            subprocess.run(
                [*command, "-c", code], capture_output=True, timeout=IMPORT_TIMEOUT_S, check=True, env=environment()
            )
        except (OSError, subprocess.SubprocessError) as error:
            message = f"the root doesn't start on a {profile.cpu.core}: {_cause(error)}"
            raise DeviceError("runtime-failed", message, "try other versions of the runtimes") from error


def _check_tools(profile: Profile) -> None:
    """Raise when the target can't be emulated here even with a root."""
    why = qemu.problem(profile)
    if not why and not sysroot.is_native(profile):
        why = board.problem(profile) or sysroot.namespace_problem() or _missing_tool()
    if why:
        raise qemu.missing(profile, why)


def _missing_tool() -> str:
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"{tool} is not installed: sudo apt-get install {package}"
    if not KEYRING.is_file():
        return "Debian's keys are not installed: sudo apt-get install debian-archive-keyring"
    return ""


def _run(command: Sequence[str | Path], *, timeout_s: float) -> None:
    try:
        subprocess.run(command, capture_output=True, timeout=timeout_s, check=True, env=environment())
    except (OSError, subprocess.SubprocessError) as error:
        hint = "check the network and the disk, then run it again: nothing half-made is left"
        raise TransportError("download-failed", f"{Path(command[0]).name} failed: {_cause(error)}", hint) from error


def _cause(error: Exception) -> str:
    errors = getattr(error, "stderr", None) or b""
    return errors.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:] or str(error)
