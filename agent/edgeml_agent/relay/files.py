"""The signed files that a relay shows at its site: metadata, the fleet document, the manifests that the site may want.

Only what this device could verify itself is shown; the site's devices verify it again. Other sites' manifests are not
fetched: they would cost the network as much as some updates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from edgeml_agent import log
from edgeml_agent.ports import Trust, TrustSource
from edgeml_core import desired, names, trust
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import EdgemlError

#: A target's repository, and its file there.
Name = tuple[str, str]


class SiteFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What the site may see: the fleet document, its manifests by digest, and all of it as files."""

    document: FleetDocument
    manifests: dict[str, bytes]
    targets: dict[Name, bytes]


class Remembered:
    """A `TrustSource` that reads each target over the network once: a target's name has its digest.

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

    def begin(self) -> None:
        """Forget what was read before, but for what is kept."""
        self._read.clear()

    def named(self, repo: str) -> list[Name]:
        """What was read of a repository since the beginning."""
        return [name for name in self._read if name[0] == repo]

    def keep(self, verified: Collection[Name]) -> dict[Name, bytes]:
        """Keep these, and no others, for the next time."""
        self._kept = {name: self._read[name] for name in verified}
        return self._kept


class SiteTrust:
    """The trust of a relay: `ports.Trust`, which hands on what it has judged right.

    Args:
        files: those that `judge` reads.
        device: the relay's own; its signed label `site` says which site it serves.
        show: called in the judge's thread with what the site may see now.
    """

    def __init__(self, judge: Trust, files: Remembered, device: str, show: Callable[[SiteFiles], None]) -> None:
        self._judge = judge
        self._files = files
        self._device = device
        self._show = show

    def desired(self) -> FleetDocument:
        """See `ports.Trust.desired`."""
        self._files.begin()
        document = self._judge.desired()
        verified = self._files.named(trust.FLEET)
        manifests: dict[str, bytes] = {}
        for deployment, bundle in desired.bundles_at(document, site_of(document, self._device)):
            stem = names.bundle_stem(deployment.name, deployment.version, bundle.target, bundle.format)
            digest = bundle.manifest_sha256
            try:
                manifests[digest] = self._judge.manifest(stem, digest)
            except EdgemlError as error:
                log.failure("relay lacks a manifest", error, release=stem)
                continue
            verified.append((trust.RELEASES, f"{trust.TARGETS_DIR}/{digest}.{trust.manifest_target(stem)}"))
        targets = self._files.keep(verified)
        self._show(SiteFiles(document=document, manifests=manifests, targets=targets))
        return document

    def manifest(self, stem: str, digest: str) -> bytes:
        """See `ports.Trust.manifest`."""
        return self._judge.manifest(stem, digest)


def site_of(document: FleetDocument, device: str) -> str:
    """The site that a device stands at; empty when that isn't said."""
    enrolled = document.devices.get(device)
    return enrolled.labels.get(desired.SITE_LABEL, "") if enrolled else ""
