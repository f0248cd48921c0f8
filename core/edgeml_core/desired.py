"""The fleet document: what each device should run, as rules that a device applies to itself.

Signed as one target of the fleet repository. A deployment selects by label and percentage, so one retained message
steers a hundred devices or thousands. Whether a release exists is the releases repository's business: a device
installs only what both agree on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final

import msgspec

from edgeml_core import names
from edgeml_core.errors import RejectedError

FLEET_DOCUMENT: Final = "fleet.json"
FLEET_DOCUMENT_MAX_BYTES: Final = 1024 * 1024
#: The label that says where a device stands: one stick, or one relay, serves all devices of a site.
SITE_LABEL: Final = "site"
_SHARES: Final = 10_000


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One enrolled device. Its labels are signed: a device can't claim others."""

    labels: dict[str, str]


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One bundle of the deployed version: devices take the first that suits them. `manifest_sha256` is its identity.

    Its chunks are encrypted for `group`, if that isn't empty.
    """

    target: str
    format: str
    arch: str
    cpu_features: tuple[str, ...]
    manifest_sha256: str
    group: str = ""


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model version for the devices that `selector` matches, up to `percent` of them.

    It is fetched and proved at once, and serves from `activate_after` on.
    """

    id: str
    name: str
    version: str
    selector: dict[str, str]
    percent: float
    bundles: tuple[Wanted, ...]
    activate_after: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class FleetDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deployments in the order they were made; for each model the last that includes a device holds."""

    fleet: str
    devices: dict[str, Device]
    deployments: tuple[Deployment, ...]


def encode(document: FleetDocument) -> bytes:
    """The one encoding of a fleet document."""
    return msgspec.json.encode(document, order="deterministic")


def decode(data: bytes) -> FleetDocument:
    """The fleet document in `data`.

    Raises:
        RejectedError: `document-format`, when it is too long, malformed or names what no name can be.
    """
    if len(data) > FLEET_DOCUMENT_MAX_BYTES:
        raise RejectedError("document-format", f"the fleet document is longer than {FLEET_DOCUMENT_MAX_BYTES} bytes")
    try:
        document = msgspec.json.decode(data, type=FleetDocument)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"the fleet document can't be read: {error}") from error
    for deployment in document.deployments:
        if not names.is_name(deployment.name) or not names.is_version(deployment.version):
            raise RejectedError("document-format", f"deployment {deployment.id!r} names no valid release")
        if not all(names.is_name(bundle.group) for bundle in deployment.bundles if bundle.group):
            raise RejectedError("document-format", f"deployment {deployment.id!r} names no valid group")
    return document


def includes(deployment: Deployment, device_id: str, labels: dict[str, str]) -> bool:
    """Whether a deployment is for this device: its labels match and its share of the hash range is reached.

    The share of a device is fixed for a deployment, so a larger percentage includes all of a smaller one.
    """
    share = int.from_bytes(hashlib.sha256(f"{deployment.id}|{device_id}".encode()).digest()[:8], "big") % _SHARES
    return names.matches(deployment.selector, labels) and share < deployment.percent * 100


def wanted_by(document: FleetDocument, device_id: str) -> dict[str, Deployment]:
    """What the document wants one device to run: a deployment for each model name.

    A device that isn't enrolled is wanted nothing of.
    """
    device = document.devices.get(device_id)
    if device is None:
        return {}
    return {
        deployment.name: deployment
        for deployment in document.deployments
        if includes(deployment, device_id, device.labels)
    }


def devices_at(document: FleetDocument, site: str) -> frozenset[str]:
    """The devices that stand at a site, by their signed labels."""
    return frozenset(name for name, device in document.devices.items() if device.labels.get(SITE_LABEL) == site)


def bundles_at(document: FleetDocument, site: str) -> Iterator[tuple[Deployment, Wanted]]:
    """Every bundle that a device of a site may take, once. Which of them it takes is for it to say, by its CPU."""
    seen: set[str] = set()
    for device in sorted(devices_at(document, site)):
        target = document.devices[device].labels.get("target", "")
        for deployment in wanted_by(document, device).values():
            for bundle in deployment.bundles:
                if target in ("", bundle.target) and bundle.manifest_sha256 not in seen:
                    seen.add(bundle.manifest_sha256)
                    yield deployment, bundle


def choose_bundle(
    deployment: Deployment, *, arch: str, cpu_features: frozenset[str], formats: frozenset[str], target: str
) -> Wanted:
    """The bundle of a deployment that this device should install.

    Args:
        arch: the machine's, as `uname -m` says it.
        cpu_features: as Linux names them.
        formats: those whose runtime is installed here.
        target: the device's own `target` label; empty chooses among all by CPU.

    Returns:
        Of those that run here, one that asks for the most CPU features (it was quantized for the closest CPU); among
        equals the first in the deployment's order.

    Raises:
        RejectedError: `release-unsuitable`, when none runs here.
    """
    suitable = [
        bundle
        for bundle in deployment.bundles
        if bundle.arch == arch
        and bundle.format in formats
        and cpu_features.issuperset(bundle.cpu_features)
        and target in ("", bundle.target)
    ]
    if not suitable:
        offered = ", ".join(sorted(f"{bundle.target}/{bundle.format}" for bundle in deployment.bundles)) or "nothing"
        raise RejectedError(
            "release-unsuitable",
            f"{deployment.name} {deployment.version} offers {offered}; none runs on {target or arch}",
            "export the model for this board and publish that bundle under a new version",
        )
    return max(suitable, key=lambda bundle: len(bundle.cpu_features))
