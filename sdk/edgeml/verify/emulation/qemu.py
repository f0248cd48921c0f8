"""qemu's user mode on this machine: its binary for an architecture, and the CPU features that it can emulate."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from edgeml_core.errors import UsageError
from edgeml_core.profile import Profile

#: Seconds for qemu to print its CPUs; it takes a fraction of one.
TIMEOUT_S: Final = 30.0
INSTALL: Final = "sudo apt-get install qemu-user-static"
_MISSING_FEATURE: Final = re.compile(r"TCG doesn't support requested feature: \S+?\.([\w.-]+) \[")


def binary(arch: str) -> Path | None:
    """Find the statically linked emulator of `arch`; None when it isn't installed."""
    found = shutil.which(f"qemu-{arch}-static")
    return Path(found) if found else None


def problem(profile: Profile) -> str:
    """Explain why qemu here can't emulate the target's CPU, with the remedy; empty when it can."""
    emulator, cpu = binary(profile.cpu.arch), profile.cpu
    if emulator is None:
        return f"qemu-{cpu.arch}-static is not installed: {INSTALL}"
    if cpu.emulator not in _printed(emulator, "-cpu", "help").split():
        return f"{emulator.name} has no CPU {cpu.emulator!r}: install a newer qemu"
    if missing := sorted(set(map(_bare, cpu.needs)) & _lacking_features(emulator, cpu.emulator)):
        return f"qemu can't emulate {', '.join(missing)} of {cpu.core}: verify on such a machine"
    return ""


def missing(profile: Profile, why: str) -> UsageError:
    """Build the error for a target that can't be emulated here.

    Args:
        profile: the target.
        why: the cause, `: ` and the remedy.
    """
    cause, _, remedy = why.partition(": ")
    return UsageError("emulation-missing", f"{profile.name} can't be emulated here: {cause}", remedy)


def _lacking_features(emulator: Path, cpu: str) -> set[str]:
    """List the features of `cpu` that qemu lacks, from the warnings that it prints as it starts."""
    return {_bare(name) for name in _MISSING_FEATURE.findall(_printed(emulator, "-cpu", cpu, "/bin/true"))}


def _bare(feature: str) -> str:
    """Strip the signs in which Linux and qemu spell a feature differently: avx512_vnni, avx512vnni."""
    return re.sub(r"[._-]", "", feature)


def _printed(emulator: Path, *arguments: str) -> str:
    """Run qemu and return its output, also when it fails; empty when it can't start."""
    try:
        ran = subprocess.run(
            [emulator, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout + ran.stderr
