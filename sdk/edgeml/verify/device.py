"""A bundle verified or benchmarked by a device of a fleet, `device:ID`, which holds it already and serves meanwhile.

The device compares golden outputs itself, by the bounds in the signed manifest.
"""

from __future__ import annotations

from edgeml.fleet import call
from edgeml.fleet.call import DeviceConnection
from edgeml.verify import DEVICE
from edgeml.verify.verification import Verification
from edgeml_core import names
from edgeml_core.calls import Kind, Reply, Timing
from edgeml_core.errors import RejectedError, UsageError


def verify(on: str, connection: DeviceConnection | None, manifest_sha256: str) -> Verification:
    """Reproduce the golden outputs of a bundle on a device.

    Args:
        on: `device:ID`.
        connection: to the broker of its fleet.
        manifest_sha256: names the bundle.

    Raises:
        UsageError: `usage`, without a connection; `device-unknown`.
        TransportError: the device can't be reached.
        DeviceError: `release-absent`, `device-busy`, `memory-short`, `golden-mismatch`, `probe-crashed`, or the runtime
            there failed.
    """
    reply = request(on, connection, kind="verify", manifest_sha256=manifest_sha256)
    if reply.reproduced is None:
        raise RejectedError("document-format", f"the reply from {on} has no golden result")
    return Verification(
        cpu=reply.cpu,
        how="measured",
        runtime=reply.runtime,
        min_cosine=reply.reproduced.min_cosine,
        max_abs=reply.reproduced.max_abs,
        answers=[],
    )


def request(
    on: str,
    connection: DeviceConnection | None,
    *,
    kind: Kind,
    manifest_sha256: str,
    timing: Timing = Timing(),  # noqa: B008 - frozen
) -> Reply:
    """Request a verification or a benchmark from a device; raises as `verify` does."""
    device = names.require_name(on.removeprefix(DEVICE), "device id")
    if connection is None:
        raise UsageError("usage", f"{on} is reached over its fleet's broker", "name it: --broker mqtts://HOST")
    reply = call.ask(connection, device, call.new(kind, manifest_sha256=manifest_sha256, timing=timing))
    if reply.refused is not None:
        raise reply.refused.error(f"on {device}: ")
    return reply
