"""qemu's user mode on this machine: its binary for an architecture, and what of a target's CPU it can emulate."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from edgeml_core.errors import UsageError
from edgeml_core.profile import Profile

TIMEOUT_S: Final = 30.0
INSTALL: Final = "sudo apt-get install qemu-user-static"
_LACKING: Final = re.compile(r"TCG doesn't support requested feature: \S+?\.([\w.-]+) \[")


def binary(arch: str) -> Path | None:
    """The statically linked emulator of `arch`; None when it isn't installed."""
    found = shutil.which(f"qemu-{arch}-static")
    return Path(found) if found else None


def problem(profile: Profile) -> str:
    """Why this machine can't emulate the target's CPU, with the remedy; empty when it can."""
    emulator, cpu = binary(profile.cpu.arch), profile.cpu
    if emulator is None:
        return f"qemu-{cpu.arch}-static is not installed: {INSTALL}"
    if cpu.emulator not in _said(emulator, "-cpu", "help").split():
        return f"{emulator.name} has no CPU {cpu.emulator!r}: install a newer qemu"
    if missing := sorted(set(map(_bare, cpu.needs)) & _lacking(emulator, cpu.emulator)):
        return f"qemu can't emulate {', '.join(missing)} of {cpu.core}: verify on such a machine"
    return ""


def refusal(profile: Profile, why: str) -> UsageError:
    """The error for a target that can't be emulated here, from a sentence that ends with `: ` and the remedy."""
    what, _, remedy = why.partition(": ")
    return UsageError("emulation-missing", f"{profile.name} can't be emulated here: {what}", remedy)


def _lacking(emulator: Path, cpu: str) -> set[str]:
    """The features of `cpu` that qemu lacks, as it warns when it starts; it then fails, having nothing to run."""
    return {_bare(name) for name in _LACKING.findall(_said(emulator, "-cpu", cpu, "/bin/true"))}


def _bare(feature: str) -> str:
    """A feature's name without the signs in which Linux and qemu differ: avx512_vnni, avx512vnni."""
    return re.sub(r"[._-]", "", feature)


def _said(emulator: Path, *arguments: str) -> str:
    try:
        ran = subprocess.run(
            [emulator, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout + ran.stderr
