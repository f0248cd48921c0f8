"""The fleet document: the deployments, as rules that each device applies to itself.

It is signed as one target of the fleet repository. A deployment selects by label and percentage; each device applies
it to the labels in its own record (`edgeml_core.records`). So one small message steers a hundred devices or a million.
The releases repository lists the releases: a device installs only what both name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Final

import msgspec

from edgeml_core import decoding, names, selectors
from edgeml_core.errors import RejectedError, UsageError

FLEET_DOCUMENT: Final = "fleet.json"
#: Bytes of a fleet document: every device reads all of it after each change. A bundle of a deployment takes 250.
FLEET_DOCUMENT_MAX_BYTES: Final = 16 * 1024
#: The label of a device's site: one stick, or one relay, serves all devices of a site.
SITE_LABEL: Final = "site"
#: The label of a device's board: the device installs bundles of that target alone.
TARGET_LABEL: Final = "target"
#: Steps of the hash range: hundredths of a percent.
HASH_STEPS: Final = 10_000
#: Between a deployment's id and the number of its attempt; the first attempt has none.
_ATTEMPT: Final = "~"


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One bundle of the deployed version: devices install the first that suits them. `manifest_sha256` is its identity.

    Its chunks are encrypted for `group`, if that isn't empty.
    """

    target: str
    format: str
    arch: str
    cpu_features: tuple[str, ...]
    manifest_sha256: str
    group: str = ""


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model version for the devices that `selector` matches (`edgeml_core.selectors`), up to `percent` of them.

    Devices fetch and probe it at once, and activate it from `activate_after` on. Without a version it is a removal: the
    devices stop serving the model. A pinned one holds against all that aren't, also later ones. A host's controller
    changes the percentage of one in waves.
    """

    id: str
    name: str
    version: str
    selector: str
    percent: float
    bundles: tuple[Wanted, ...]
    activate_after: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    pinned: bool = False
    in_waves: bool = False

    @property
    def removes(self) -> bool:
        """Whether its devices stop serving the model."""
        return not self.version


class FleetDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deployments in the order in which they were made; no device is named here.

    For each model the last pinned one that includes a device holds, else the last one. `audit` is the head of the
    host's audit log when it signed; devices ignore it.
    """

    fleet: str
    deployments: tuple[Deployment, ...]
    audit: str = ""


def encode(document: FleetDocument) -> bytes:
    """Encode a fleet document; equal documents give equal bytes."""
    return msgspec.json.encode(document, order="deterministic")


def decode(data: bytes) -> FleetDocument:
    """Decode a fleet document.

    Raises:
        RejectedError: `document-format`, when it is too long, malformed or has an invalid name or selector.
    """
    if len(data) > FLEET_DOCUMENT_MAX_BYTES:
        message = f"the fleet document has {len(data)} bytes, limit {FLEET_DOCUMENT_MAX_BYTES}"
        raise RejectedError("document-format", message)
    try:
        document = decoding.from_json(data, FleetDocument)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"the fleet document can't be read: {error}") from error
    for deployment in document.deployments:
        is_version = not deployment.bundles if deployment.removes else names.is_version(deployment.version)
        if not names.is_name(deployment.name) or not is_version:
            raise RejectedError("document-format", f"deployment {deployment.id!r} has no valid name or version")
        if not all(names.is_name(bundle.group) for bundle in deployment.bundles if bundle.group):
            raise RejectedError("document-format", f"deployment {deployment.id!r} has an invalid group name")
        try:
            selectors.parse(deployment.selector)
        except UsageError as error:
            raise RejectedError("document-format", f"deployment {deployment.id!r}: {error.message}") from error
    return document


def next_attempt(deployment_id: str) -> str:
    """Return the id of the next attempt at a deployment: devices that have ended the earlier one try again.

    >>> next_attempt("minilm-2-7"), next_attempt("minilm-2-7~2")
    ('minilm-2-7~2', 'minilm-2-7~3')
    """
    first, _, attempt = deployment_id.partition(_ATTEMPT)
    return f"{first}{_ATTEMPT}{int(attempt or 1) + 1}"


def is_another_attempt(deployment: Deployment) -> bool:
    """Return whether the operator has asked for another attempt, since the cause of a refusal may be gone."""
    return _ATTEMPT in deployment.id


def place(deployment: Deployment, device_id: str) -> int:
    """Return the place of a device in a deployment's order, from 0 to 9999: a share includes the first places.

    It is fixed for all attempts at a deployment, so a larger percentage includes all devices of a smaller one.
    """
    seed = f"{deployment.id.partition(_ATTEMPT)[0]}|{device_id}"
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % HASH_STEPS


def includes(deployment: Deployment, device_id: str, labels: Mapping[str, str]) -> bool:
    """Return whether a deployment includes this device: its labels match, and `percent` reaches its place."""
    if not selectors.matches(deployment.selector, device_id, labels):
        return False
    return place(deployment, device_id) < round(deployment.percent * HASH_STEPS / 100)


def wanted_by(document: FleetDocument, device_id: str, labels: Mapping[str, str]) -> dict[str, Deployment]:
    """Return the deployments for one enrolled device with these signed labels, by model name."""
    return {
        deployment.name: deployment
        for deployment in sorted(document.deployments, key=lambda it: it.pinned)
        if includes(deployment, device_id, labels)
    }


def bundles_for(
    document: FleetDocument, device_id: str, labels: Mapping[str, str]
) -> Iterator[tuple[Deployment, Wanted]]:
    """Yield every bundle that a device may install. Which of them it installs depends on its CPU."""
    target = labels.get(TARGET_LABEL, "")
    for deployment in wanted_by(document, device_id, labels).values():
        for bundle in deployment.bundles:
            if target in ("", bundle.target):
                yield deployment, bundle


def bundles_at(
    document: FleetDocument, devices: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[Deployment, Wanted]]:
    """Yield every bundle that one of these devices may install, once; `devices` has the signed labels of each."""
    seen: set[str] = set()
    for device, labels in sorted(devices.items()):
        for deployment, bundle in bundles_for(document, device, labels):
            if bundle.manifest_sha256 not in seen:
                seen.add(bundle.manifest_sha256)
                yield deployment, bundle


def choose_bundle(
    deployment: Deployment, *, arch: str, cpu_features: frozenset[str], formats: frozenset[str], target: str
) -> Wanted:
    """Choose the bundle of a deployment that this device should install.

    Args:
        arch: the device's, as `uname -m` prints it.
        cpu_features: as Linux names them.
        formats: those whose runtime is installed here.
        target: the device's own `target` label; empty chooses among all by CPU.

    Returns:
        Of those that run here, one that needs the most CPU features, as it was quantized for the closest CPU. Among
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
