"""Proof that a bundle works on a CPU: its golden outputs reproduced there by the device's own code.

`verify` is the entry. Each place starts the same program (`edgeml_runtime.verify.child`) and is judged in one place
(`child.py`): this machine; the target's CPU emulated by qemu (`emulated.py`, in a `root` for a foreign architecture,
which `prepare` makes); another machine by `ssh.py`; a device that holds the bundle, by a call over the broker
(`device.py`). `target_cpu.py` is export's use of it. No time is measured here: that is `edgeml.bench`'s business.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeml import targets
from edgeml.verify import child, ssh
from edgeml.verify.child import Proof
from edgeml.verify.emulation import emulated
from edgeml_runtime.unpack import unpacked

if TYPE_CHECKING:
    from edgeml.fleet.call import DeviceConnection

__all__ = ["DEVICE", "EMULATED", "LOCAL", "Proof", "verify"]

LOCAL: Final = "local"
EMULATED: Final = "emulated"
#: What a device's id stands behind.
DEVICE: Final = "device:"


def verify(bundle: Path, on: str = LOCAL, *, line: DeviceConnection | None = None) -> Proof:
    """Check every byte of a bundle and reproduce its golden outputs.

    Args:
        bundle: a `.edgeml` file.
        on: `local`; `emulated`, for the target's CPU; `ssh://HOST`; or `device:ID`.
        line: the way to a device's fleet.

    Raises:
        UsageError: `emulation-missing`, or `on` is no such place. RejectedError: the bundle is malformed or damaged.
        DeviceError: `golden-mismatch`, `probe-crashed`, or the runtime failed; what a device says besides.
        TransportError: `host-unreachable`; the broker, or the device, can't be reached.
    """
    with unpacked(bundle) as opened:
        if on == LOCAL:
            return child.prove(opened.folder, opened.manifest)
        if on == EMULATED:
            return emulated.prove(opened.folder, opened.manifest, targets.load(opened.manifest.target), ())
        if on.startswith(DEVICE):
            from edgeml.verify import device  # noqa: PLC0415 - MQTT is an extra of its own

            return device.prove(on, line, opened.manifest_sha256)
        return ssh.prove(opened.folder, opened.manifest, on)
