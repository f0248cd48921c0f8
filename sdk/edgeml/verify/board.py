"""The files of /proc and /sys from which a runtime reads its CPU, with the contents that the board's kernel gives.

Without them the runtimes read the host's files: onnxruntime then crashes, and LiteRT silently leaves out XNNPACK.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.profile import Profile


class _Identity(msgspec.Struct, frozen=True):
    """A core's MIDR_EL1 fields as /proc/cpuinfo shows them; all are Arm's own (implementer 0x41)."""

    variant: int
    part: int
    revision: int


#: By qemu's name for the core. Source: each core's technical reference manual, MIDR_EL1; revisions as the boards ship.
_IDENTITIES: Final[dict[str, _Identity]] = {
    "cortex-a35": _Identity(0, 0xD04, 4),
    "cortex-a53": _Identity(0, 0xD03, 4),
    "cortex-a55": _Identity(1, 0xD05, 0),
    "cortex-a57": _Identity(1, 0xD07, 2),
    "cortex-a72": _Identity(0, 0xD08, 3),
    "cortex-a76": _Identity(4, 0xD0B, 1),
    "neoverse-n1": _Identity(3, 0xD0C, 1),
}


def problem(profile: Profile) -> str:
    """Explain why the board's files can't be written, with the remedy; empty when they can."""
    if profile.cpu.arch != "aarch64":
        return (
            f"a foreign {profile.cpu.arch} CPU can't be emulated on this machine: verify on an {profile.cpu.arch} one"
        )
    if profile.cpu.emulator not in _IDENTITIES:
        return f"edgeml has no identity registers for {profile.cpu.emulator}: take one of {', '.join(_IDENTITIES)}"
    return ""


def write(profile: Profile, folder: Path) -> None:
    """Write `cpuinfo` and `sys/devices/system/cpu/{possible,present}` of the board into `folder`."""
    cpu = profile.cpu
    blocks = (_block(number, cpu.features, _IDENTITIES[cpu.emulator]) for number in range(cpu.cores))
    (folder / "cpuinfo").write_text("".join(blocks))
    cores = folder / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True)
    for name in ("possible", "present"):
        (cores / name).write_text(f"0-{cpu.cores - 1}\n" if cpu.cores > 1 else "0\n")


def _block(number: int, features: tuple[str, ...], identity: _Identity) -> str:
    return (
        f"processor\t: {number}\nFeatures\t: {' '.join(features)}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: {identity.variant:#x}\n"
        f"CPU part\t: {identity.part:#05x}\nCPU revision\t: {identity.revision}\n\n"
    )
