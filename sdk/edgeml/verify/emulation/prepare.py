"""A foreign architecture's root made: Debian's Python unpacked, the runtimes' wheels beside it, and both tried.

Nothing of Debian is installed or run on the way: apt fetches and checks the packages, dpkg-deb unpacks them. A root is
made beside its place and moved there when it has answered, so a half-made one is never used.
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

from edgeml.verify import board
from edgeml.verify.child import environment
from edgeml.verify.emulation import qemu, sysroot
from edgeml_core.errors import DeviceError, TransportError, UsageError
from edgeml_core.profile import Profile
from edgeml_runtime import engines

APT_TIMEOUT_S: Final = 900.0
PIP_TIMEOUT_S: Final = 1800.0
UNPACK_TIMEOUT_S: Final = 120.0
TRY_TIMEOUT_S: Final = 600.0
STDERR_SHOWN_CHARS: Final = 500
TOOLS: Final = {"apt-get": "apt", "dpkg-deb": "dpkg", "unshare": "util-linux", "chroot": "coreutils"}
#: Names a mirror of Debian instead of the one that this machine's apt uses.
MIRROR_VARIABLE: Final = "EDGEML_DEBIAN_MIRROR"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Debian's name for each architecture.
_DEBIAN_ARCH: Final = {"aarch64": "arm64"}
#: What Python needs to start, and the runtimes to load; everything else in Debian is left out.
DEBIAN: Final = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
#: The suite's C library, and the oldest that wheels are made for: they are chosen by it.
GLIBC_MINOR: Final = 36
_GLIBC_MINOR_FIRST: Final = 17
_TRIES: Final = {"onnxruntime": "edgeml_runtime.engines.ort", "litert": "edgeml_runtime.engines.litert"}

Tell = Callable[[str], None]


def prepare(profile: Profile, *, force: bool = False, tell: Tell = lambda _: None) -> Path | None:
    """Make what a proof for this target needs.

    Args:
        profile: the target.
        force: whether a root that would do is made again.
        tell: is told each step.

    Returns:
        The root; None when this target needs none.

    Raises:
        UsageError: `emulation-missing`, naming the tool that is not installed and the command that installs it.
        TransportError: `download-failed`. DeviceError: the root couldn't be written, or didn't answer.
    """
    _require_tools(profile)
    if sysroot.native(profile):
        return None
    place = sysroot.folder(profile.cpu.arch)
    if not force and sysroot.held(place) == sysroot.wanted():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{place.name}-unfinished-", dir=place.parent) as name:
            made = Path(name) / "root"
            _make(profile, made, tell)
            if place.exists():
                place.rename(Path(name) / "replaced")
            made.rename(place)
    except OSError as error:
        hint = f"free some space, or name another folder in {sysroot.PLACE_VARIABLE}"
        raise DeviceError("disk-full", f"the root can't be written at {place}: {error}", hint) from error
    return place


def _make(profile: Profile, made: Path, tell: Tell) -> None:
    wanted = sysroot.wanted()
    for name in sysroot.FOLDERS:
        (made / name).mkdir(parents=True)
    (made / "qemu").touch()
    tell(f"fetching Debian {wanted.suite}'s Python for {profile.cpu.arch}")
    for package in _fetched(profile.cpu.arch, made.parent / "apt"):
        _run(["dpkg-deb", "-x", package, made], timeout_s=UNPACK_TIMEOUT_S)
    tell(f"installing {', '.join(wanted.packages)}")
    _run(_pip(wanted.packages, profile.cpu.arch, made / "site"), timeout_s=PIP_TIMEOUT_S)
    tell(f"trying it as a {profile.cpu.core}")
    _try(profile, made)
    (made / sysroot.STAMP).write_bytes(msgspec.json.encode(wanted))


def _fetched(arch: str, folder: Path) -> list[Path]:
    """The Debian packages with all that they depend on, by an apt whose state is all in `folder`."""
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
    """Where this machine's own apt gets Debian from: the packages of other architectures lie there too."""
    if given := os.environ.get(MIRROR_VARIABLE):
        return given
    command = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=APT_TIMEOUT_S, check=False).stdout.split()
    found = next((uri for uri in listed if uri.rstrip("/").endswith("/debian")), None)
    if found is None:
        hint = f"set {MIRROR_VARIABLE} to the URL of a mirror of Debian"
        raise UsageError("emulation-missing", "this machine's apt names no mirror of Debian", hint)
    return found


def _pip(packages: Sequence[str], arch: str, site: Path) -> list[str | Path]:
    """Wheels only: nothing is built, and nothing of theirs runs here."""
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(GLIBC_MINOR, _GLIBC_MINOR_FIRST - 1, -1)]
    return [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-warn-conflicts",
        "--only-binary=:all:", "--implementation=cp", f"--python-version={sysroot.PYTHON_VERSION}",
        *(f"--platform={name}" for name in (*platforms, f"manylinux2014_{arch}")),
        "--target", site, *packages,
    ]  # fmt: skip


def _try(profile: Profile, made: Path) -> None:
    """Import the proof and every runtime: they load on this CPU, and their bytecode is kept for the proofs to come."""
    modules = ["edgeml_runtime.verify.child", *(_TRIES[engine] for engine in engines.installed())]
    with (
        tempfile.TemporaryDirectory(prefix="edgeml-") as bundle,
        sysroot.entrance(profile, Path(bundle), root=made, write_bytecode=True) as command,
    ):
        code = f"import importlib\nfor name in {modules}: importlib.import_module(name)"
        try:
            subprocess.run(
                [*command, "-c", code], capture_output=True, timeout=TRY_TIMEOUT_S, check=True, env=environment()
            )
        except (OSError, subprocess.SubprocessError) as error:
            message = f"the root doesn't start as a {profile.cpu.core}: {_why(error)}"
            raise DeviceError("runtime-failed", message, "try other versions of the runtimes") from error


def _require_tools(profile: Profile) -> None:
    """Raise when a proof couldn't run even with a root."""
    why = qemu.problem(profile)
    if not why and not sysroot.native(profile):
        why = board.problem(profile) or sysroot.closed() or _missing_tool()
    if why:
        raise qemu.refusal(profile, why)


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
        raise TransportError("download-failed", f"{Path(command[0]).name} failed: {_why(error)}", hint) from error


def _why(error: Exception) -> str:
    errors = getattr(error, "stderr", None) or b""
    return errors.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:] or str(error)
