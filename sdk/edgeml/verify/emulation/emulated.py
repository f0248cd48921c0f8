"""A proof on the target's CPU, emulated by qemu's user mode: the place where it runs, and whether there is one.

The architecture of this machine is emulated around this very Python; another one needs its root (`root.py`). Emulated
time means nothing: none is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeml.verify import child
from edgeml.verify.child import ExecutionSite, Proof
from edgeml.verify.emulation import qemu, sysroot
from edgeml_core.manifest import Manifest
from edgeml_core.profile import Profile
from edgeml_runtime.tasks import Item
from edgeml_runtime.verify import child as verify_child


def unready(profile: Profile) -> str:
    """Why no proof for this target can run here now, in one sentence with the remedy; empty when one can."""
    if why := qemu.problem(profile):
        return why
    return "" if sysroot.native(profile) else sysroot.unready(profile)


def prove(folder: Path, manifest: Manifest, profile: Profile, items: Sequence[Item]) -> Proof:
    """Run a bundle on the target's CPU, emulated.

    Args:
        folder: holds the files that the manifest names, the golden file among them.
        manifest: the bundle's; its golden bounds are what is judged by.
        profile: the target.
        items: what is to be answered there besides, one at a time.

    Raises:
        DeviceError: `golden-mismatch`; `runtime-failed` or `runtime-missing`; `probe-crashed`, naming the signal.
        UsageError: `emulation-missing`, when no proof can run here.
    """
    if why := unready(profile):
        raise qemu.refusal(profile, why)
    if not sysroot.native(profile):
        with sysroot.entered(profile, folder) as command:
            return child.run(_place(profile, command), manifest, verify_child.encode(manifest, items))
    python = child.python("edgeml_runtime.verify.child", str(folder))
    command = [str(qemu.binary(profile.cpu.arch)), "-cpu", profile.cpu.emulator, *python]
    return child.run(_place(profile, command), manifest, verify_child.encode(manifest, items))


def _place(profile: Profile, command: Sequence[str]) -> ExecutionSite:
    return ExecutionSite(name=profile.cpu.core, how="emulated", command=command)
