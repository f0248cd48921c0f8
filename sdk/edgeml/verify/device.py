"""A bundle run on a device of a fleet, `device:ID`: one that it holds already, beside what it serves.

The device judges a proof itself, by the bounds in the manifest that was signed.
"""

from __future__ import annotations

from edgeml.fleet import call
from edgeml.fleet.call import DeviceConnection
from edgeml.verify import DEVICE
from edgeml.verify.child import Proof
from edgeml_core import names
from edgeml_core.calls import Kind, Reply, Timing
from edgeml_core.errors import RejectedError, UsageError


def prove(on: str, line: DeviceConnection | None, manifest_sha256: str) -> Proof:
    """Have the golden outputs of a bundle reproduced on a device.

    Args:
        on: `device:ID`.
        line: the way to its fleet.
        manifest_sha256: names the bundle.

    Raises:
        UsageError: `usage`, when there is no way; `device-unknown`. TransportError: the device can't be reached.
        DeviceError: `release-absent`, `device-busy`, `memory-short`, `golden-mismatch`, `probe-crashed`, or the runtime
            there failed.
    """
    reply = ask(on, line, kind="verify", manifest_sha256=manifest_sha256)
    if reply.reproduced is None:
        raise RejectedError("document-format", f"the reply from {on} holds no proof")
    found = reply.reproduced
    return Proof(
        cpu=reply.cpu,
        how="measured",
        runtime=reply.runtime,
        min_cosine=found.min_cosine,
        max_abs=found.max_abs,
        answers=[],
    )


def ask(
    on: str,
    line: DeviceConnection | None,
    *,
    kind: Kind,
    manifest_sha256: str,
    timing: Timing = Timing(),  # noqa: B008 - frozen
) -> Reply:
    """What a device replies; raises as `prove` does."""
    device = names.require_name(on.removeprefix(DEVICE), "device id")
    if line is None:
        raise UsageError("usage", f"{on} is reached over its fleet's broker", "name it: --broker mqtts://HOST")
    reply = call.ask(line, device, kind=kind, manifest_sha256=manifest_sha256, timing=timing)
    if reply.refused is not None:
        raise reply.refused.error(f"on {device}: ")
    return reply
