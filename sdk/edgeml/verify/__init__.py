"""Verification: a bundle's golden outputs reproduced on a CPU by the code that the device runs.

`verify` is the entry. Every execution site runs the same program, `edgeml_runtime.verify.child`, and `verification.py`
holds all replies to the bundle's bounds. The sites are this machine; the target's CPU emulated by qemu (`emulation/`);
another machine (`ssh.py`); and a device that holds the bundle (`device.py`). Speed is left to `edgeml.bench`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeml import targets
from edgeml.verify import ssh, verification
from edgeml.verify.emulation import emulated
from edgeml.verify.verification import Verification
from edgeml_runtime.unpack import unpacked

if TYPE_CHECKING:
    from edgeml.fleet.call import DeviceConnection

__all__ = ["DEVICE", "EMULATED", "LOCAL", "Verification", "verify"]

LOCAL: Final = "local"
EMULATED: Final = "emulated"
#: Prefix of a device's id.
DEVICE: Final = "device:"


def verify(bundle: Path, on: str = LOCAL, *, connection: DeviceConnection | None = None) -> Verification:
    """Check every byte of a bundle and reproduce its golden outputs.

    Args:
        bundle: a `.edgeml` file.
        on: `local`; `emulated`, for the target's CPU; `ssh://HOST`; or `device:ID`.
        connection: to the broker of a device's fleet.

    Raises:
        UsageError: `emulation-missing`; `usage`, when `on` is none of these.
        RejectedError: the bundle is malformed or damaged.
        DeviceError: `golden-mismatch`, `probe-crashed`, or the runtime failed; any error that a device replies.
        TransportError: `host-unreachable`; the broker, or the device, can't be reached.
    """
    with unpacked(bundle) as opened:
        if on == LOCAL:
            return verification.verify_here(opened.folder, opened.manifest)
        if on == EMULATED:
            return emulated.verify(opened.folder, opened.manifest, targets.load(opened.manifest.target), ())
        if on.startswith(DEVICE):
            from edgeml.verify import device  # noqa: PLC0415 - MQTT is an extra of its own

            return device.verify(on, connection, opened.manifest_sha256)
        return ssh.verify(opened.folder, opened.manifest, on)
