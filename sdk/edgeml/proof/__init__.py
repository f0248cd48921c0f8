"""Proof that a bundle works on a CPU: its golden outputs reproduced there by the device's own code.

`verify` is the entry. Each place starts the same program (`edgeml_runtime.proof`) and is judged in one place
(`child.py`): this machine; the target's CPU emulated by qemu (`emulated.py`, in a `root` for a foreign architecture,
which `prepare` makes); another machine by `ssh.py`. `target_cpu.py` is export's use of it. No time is measured here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeml import targets
from edgeml.proof import child, emulated, ssh
from edgeml.proof.child import Proof
from edgeml_runtime.unpacked import unpacked

__all__ = ["EMULATED", "LOCAL", "Proof", "verify"]

LOCAL: Final = "local"
EMULATED: Final = "emulated"


def verify(bundle: Path, on: str = LOCAL) -> Proof:
    """Check every byte of a bundle and reproduce its golden outputs.

    Args:
        bundle: a `.edgeml` file.
        on: `local`; `emulated`, for the target's CPU; or `ssh://HOST`.

    Raises:
        UsageError: `emulation-missing`, or `on` is no such place. RejectedError: the bundle is malformed or damaged.
        DeviceError: `golden-mismatch`, `probe-crashed`, or the runtime failed. TransportError: `host-unreachable`.
    """
    with unpacked(bundle) as opened:
        if on == LOCAL:
            return child.prove(opened.folder, opened.manifest)
        if on == EMULATED:
            return emulated.prove(opened.folder, opened.manifest, targets.load(opened.manifest.target), ())
        return ssh.prove(opened.folder, opened.manifest, on)
