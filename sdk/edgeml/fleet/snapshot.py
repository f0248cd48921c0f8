"""A snapshot of the signed repository for the service: releases with their chunks, and the devices that may want them.

Reading verifies the repository. The announcement is left to `announcer`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from edgeml.repository import RepositoryFolder, releases
from edgeml.repository.chunk_ids import Location, Outgoing, Sealed, locations
from edgeml.repository.records import Known
from edgeml_core import desired, wire_keys
from edgeml_core.desired import FleetDocument
from edgeml_origin.cohorts import AnnouncedRelease


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All releases as they were published, the ids of devices and deployments, the chunks, and the devices' sites.

    A revoked device has its record here, and is in none of the rest.

    Args:
        sealed: the chunk of each encrypted id.
        locations: the place of each chunk, by its plain id.
    """

    releases: tuple[AnnouncedRelease, ...]
    devices: frozenset[str]
    deployments: frozenset[str]
    sealed: Mapping[str, Sealed]
    locations: Mapping[str, Location]
    sites: dict[str, str]
    records: Mapping[str, Known]


def read(repository: RepositoryFolder) -> Snapshot:
    """Read and verify the repository.

    Raises:
        UsageError: `repo-invalid`.
    """
    document, known = repository.document(), repository.records.all()
    devices = {device: it.record.labels for device, it in known.items() if not it.record.revoked}
    expected = _expected(document, devices)
    published = releases(repository)
    outgoing = Outgoing(published, repository.groups)
    announced = tuple(
        AnnouncedRelease(
            release=wire_keys.chunk_id(it.manifest_sha256),
            ids=outgoing.ids(it),
            devices=frozenset(expected[it.manifest_sha256]),
        )
        for it in published
    )
    return Snapshot(
        releases=announced,
        devices=frozenset(devices),
        deployments=frozenset(it.id for it in document.deployments),
        sealed=outgoing.sealed,
        locations=locations(published),
        sites={device: known[device].site for device in devices},
        records=known,
    )


def _expected(document: FleetDocument, devices: Mapping[str, Mapping[str, str]]) -> defaultdict[str, set[str]]:
    """The devices that may want each release; a device itself selects the bundle that suits it."""
    expected: defaultdict[str, set[str]] = defaultdict(set)
    for device, labels in devices.items():
        for _, bundle in desired.bundles_for(document, device, labels):
            expected[bundle.manifest_sha256].add(device)
    return expected
