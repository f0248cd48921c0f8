"""The signed files that a relay publishes at its site: metadata, fleet document, the site's records and manifests.

The relay publishes only files that it has verified itself; the site's devices verify them again. It doesn't fetch other
sites' manifests: they would cost the network as much as some updates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import msgspec

from edgeml_agent import log
from edgeml_agent.ports import SiteRecord, Trust, TrustSource
from edgeml_core import desired, names, trust
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import EdgemlError
from edgeml_core.records import DeviceRecord

#: A file's repository, and its name there.
Name = tuple[str, str]
_ROOT: Final = re.compile(rf"{trust.METADATA_DIR}/(\d+)\.root\.json")


class SiteFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet document, the site's name, and what its devices read.

    Attributes:
        records: of the site's devices, by id.
        manifests: those for the site, by digest.
        files: all signed files.
    """

    document: FleetDocument
    site: str
    records: dict[str, SiteRecord]
    manifests: dict[str, bytes]
    files: dict[Name, bytes]


class SiteVerifier(Trust, Protocol):
    """The trust of a relay's own device, which also verifies the records of its site."""

    def site(self, site: str) -> dict[str, SiteRecord]:
        """Return the records of a site's devices that the fleet's keys have signed, by device.

        Raises:
            RejectedError: `document-format`. TransportError: they can't be fetched.
        """
        ...


class TargetCache:
    """A `TrustSource` that reads each target over the network once: a target's name contains its digest.

    One thread at a time may call.
    """

    def __init__(self, source: TrustSource) -> None:
        self._source = source
        self._kept: dict[Name, bytes] = {}
        self._read: dict[Name, bytes] = {}

    def read(self, repo: str, file: str) -> bytes | None:
        """See `TrustSource.read`."""
        if not file.startswith(f"{trust.TARGETS_DIR}/"):
            return self._source.read(repo, file)
        data = self._kept.get((repo, file)) or self._source.read(repo, file)
        if data is not None:
            self._read[repo, file] = data
        return data

    def record(self, device: str) -> bytes | None:
        """See `TrustSource.record`."""
        return self._source.record(device)

    def site(self, site: str) -> bytes | None:
        """See `TrustSource.site`."""
        return self._source.site(site)

    def begin(self) -> None:
        """Forget all targets that `keep` didn't name."""
        self._read.clear()

    def named(self, repo: str) -> list[Name]:
        """Return the targets of a repository that were read since `begin`."""
        return [name for name in self._read if name[0] == repo]

    def keep(self, verified: Collection[Name]) -> dict[Name, bytes]:
        """Keep these targets, and no others, for the next refresh."""
        self._kept = {name: self._read[name] for name in verified}
        return self._kept


class SiteTrust:
    """The trust of a relay: `ports.Trust` that also passes the verified files on.

    Args:
        verifier: the trust of the device itself.
        targets: the source that `verifier` reads.
        metadata: reads the metadata that `verifier` has verified.
        show: called in the verifier's thread with the site's files.
    """

    def __init__(
        self,
        verifier: SiteVerifier,
        targets: TargetCache,
        metadata: Callable[[], Mapping[Name, bytes]],
        show: Callable[[SiteFiles], None],
    ) -> None:
        self._verifier = verifier
        self._targets = targets
        self._metadata = metadata
        self._show = show
        self._old_roots: dict[Name, bytes] = {}

    def desired(self) -> FleetDocument:
        """See `ports.Trust.desired`."""
        self._targets.begin()
        document = self._verifier.desired()
        verified = self._targets.named(trust.FLEET)
        site = self._verifier.record().labels.get(desired.SITE_LABEL, "")
        found = self._verifier.site(site) if site else {}
        devices = {device: it.record.labels for device, it in found.items() if not it.record.revoked}
        manifests: dict[str, bytes] = {}
        for deployment, bundle in desired.bundles_at(document, devices):
            stem = names.bundle_stem(deployment.name, deployment.version, bundle.target, bundle.format)
            digest = bundle.manifest_sha256
            try:
                manifests[digest] = self._verifier.manifest(stem, digest)
            except EdgemlError as error:
                log.failure("relay lacks a manifest", error, release=stem)
                continue
            verified.append((trust.RELEASES, f"{trust.TARGETS_DIR}/{digest}.{trust.manifest_target(stem)}"))
        targets, metadata = self._targets.keep(verified), self._metadata()
        for name in _earlier_roots(metadata):
            # A device may have been enrolled before the relay was.
            if name not in self._old_roots and (data := self._targets.read(*name)) is not None:
                self._old_roots[name] = data
        files = {**self._old_roots, **targets, **metadata}
        self._show(SiteFiles(document=document, site=site, records=found, manifests=manifests, files=files))
        return document

    def record(self) -> DeviceRecord:
        """See `ports.Trust.record`."""
        return self._verifier.record()

    def manifest(self, stem: str, digest: str) -> bytes:
        """See `ports.Trust.manifest`."""
        return self._verifier.manifest(stem, digest)

    def withdrawn(self) -> frozenset[str]:
        """See `ports.Trust.withdrawn`."""
        return self._verifier.withdrawn()


def _earlier_roots(metadata: Mapping[Name, bytes]) -> list[Name]:
    """Return the names of the roots before the relay's first one."""
    numbers: dict[str, list[int]] = {}
    for repo, file in metadata:
        if found := _ROOT.fullmatch(file):
            numbers.setdefault(repo, []).append(int(found[1]))
    return [
        (repo, f"{trust.METADATA_DIR}/{number}.root.json")
        for repo, held in numbers.items()
        for number in range(1, min(held))
    ]
