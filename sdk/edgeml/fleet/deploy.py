"""Deploying: one more rule in the signed fleet document. A running `serve` sees it and announces it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from edgeml.repository import Release, layout, releases
from edgeml_core import names
from edgeml_core.desired import Deployment, FleetDocument, Wanted
from edgeml_core.errors import UsageError


def deploy(
    repo: Path,
    name: str,
    version: str | None = None,
    *,
    selector: Mapping[str, str],
    percent: float = 100.0,
    now: datetime | None = None,
) -> Deployment:
    """Make devices want a release.

    Deploying the same version to the same selector again changes the percentage of the deployment that is there, so
    that a larger one keeps all devices of a smaller one.

    Args:
        repo: the repository's folder.
        name: the model.
        version: None is the one published last.
        selector: labels that a device must have; empty selects all.
        percent: of the devices selected, more than 0, at most 100.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, for a bad percentage; `repo-invalid`; `release-unknown`.
    """
    if not 0 < percent <= 100:
        raise UsageError("usage", f"{percent:g} % is not a share of devices", "give more than 0 %, at most 100 %")
    repository = layout.opened(repo)
    with repository.locked():
        chosen = _choose(releases(repository), name, version)
        document = repository.document()
        deployment = Deployment(
            id=_identity(document, chosen[0], selector, number=repository.fleet.version() + 1),
            name=name,
            version=chosen[0].manifest.version,
            selector=dict(selector),
            percent=percent,
            bundles=tuple(_wanted(release) for release in chosen),
        )
        changed = msgspec.structs.replace(document, deployments=(*_kept(document, deployment), deployment))
        repository.write_document(changed, now or layout.utc_now())
    return deployment


def _choose(published: Sequence[Release], name: str, version: str | None) -> list[Release]:
    """All bundles of the version asked for, or of the one published last."""
    of_name = [release for release in published if release.manifest.name == name]
    if not of_name:
        known = {release.manifest.name for release in published}
        raise UsageError("release-unknown", f"no release of {name!r} is published", _hint(name, known))
    version = of_name[-1].manifest.version if version is None else version
    chosen = [release for release in of_name if release.manifest.version == version]
    if not chosen:
        known = {release.manifest.version for release in of_name}
        raise UsageError("release-unknown", f"{name} has no version {version!r}", _hint(version, known))
    return chosen


def _hint(asked: str, known: set[str]) -> str:
    if not known:
        return "publish a bundle first: `edgeml publish BUNDLE --repo DIR`"
    close = difflib.get_close_matches(asked, known)
    return f"did you mean {' or '.join(close)}?" if close else f"there is {', '.join(sorted(known))}"


def _wanted(release: Release) -> Wanted:
    manifest = release.manifest
    return Wanted(
        target=manifest.target,
        format=manifest.file_format,
        arch=manifest.cpu.arch,
        cpu_features=manifest.cpu.features,
        manifest_sha256=release.manifest_sha256,
    )


def _identity(document: FleetDocument, release: Release, selector: Mapping[str, str], *, number: int) -> str:
    """The id of the deployment that this one continues, else a new one; the document's version makes it unique."""
    name, version = release.manifest.name, release.manifest.version
    for deployment in document.deployments:
        if (deployment.name, deployment.version, deployment.selector) == (name, version, selector):
            return deployment.id
    return f"{name}-{version}-{number}"


def _kept(document: FleetDocument, new: Deployment) -> list[Deployment]:
    """The deployments that still have a say: not those that the new one continues, or takes all devices from."""
    everywhere = new.percent == 100
    return [
        deployment
        for deployment in document.deployments
        if deployment.id != new.id
        and not (everywhere and deployment.name == new.name and names.matches(new.selector, deployment.selector))
    ]
