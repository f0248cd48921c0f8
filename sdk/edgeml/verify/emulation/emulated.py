"""A bundle verified on the target's CPU, emulated by qemu's user mode.

A target of this machine's architecture runs this very Python. Another architecture needs its system root
(`sysroot.py`). Emulated time is no measure of speed, so none is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeml import child_process
from edgeml.child_process import ExecutionSite
from edgeml.verify import verification
from edgeml.verify.emulation import qemu, sysroot
from edgeml.verify.verification import Verification
from edgeml_core.manifest import Manifest
from edgeml_core.profile import Profile
from edgeml_runtime.tasks import Item
from edgeml_runtime.verify.child import encode


def unready(profile: Profile) -> str:
    """Explain why this target can't be emulated here now, with the remedy; empty when it can."""
    if why := qemu.problem(profile):
        return why
    return "" if sysroot.is_native(profile) else sysroot.unready(profile)


def verify(
    folder: Path, manifest: Manifest, profile: Profile, items: Sequence[Item], gauge: bytes = b""
) -> Verification:
    """Reproduce a bundle's golden outputs on the target's CPU, emulated.

    Args:
        folder: holds the files that the manifest names, the golden file among them.
        manifest: the bundle's; its golden bounds decide.
        profile: the target.
        items: to be answered there as well, one at a time.
        gauge: for a report of a language model's kernels; empty for none.

    Raises:
        DeviceError: `golden-mismatch`; `runtime-failed` or `runtime-missing`; `probe-crashed`, naming the signal.
        UsageError: `emulation-missing`, when the target can't be emulated here.
    """
    if why := unready(profile):
        raise qemu.missing(profile, why)
    request = encode(manifest, items, gauge)
    if not sysroot.is_native(profile):
        with sysroot.python_command(profile, folder) as python:
            command = [*python, "-m", verification.PROGRAM, sysroot.BUNDLE]
            return verification.run(_site(profile, command), manifest, request)
    python = child_process.python(verification.PROGRAM, str(folder))
    command = [str(qemu.binary(profile.cpu.arch)), "-cpu", profile.cpu.emulator, *python]
    return verification.run(_site(profile, command), manifest, request)


def _site(profile: Profile, command: Sequence[str]) -> ExecutionSite:
    return ExecutionSite(name=profile.cpu.core, how="emulated", command=command)
