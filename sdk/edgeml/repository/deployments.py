"""Deployments: rules in the signed fleet document. A running `edgeml fleet serve` announces each change."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import chunk_ids, layout
from edgeml.repository.layout import RepositoryFolder
from edgeml.repository.releases import Release, releases
from edgeml_core import desired, selectors
from edgeml_core.desired import Deployment, FleetDocument, Wanted
from edgeml_core.errors import UsageError
from edgeml_core.selectors import Selector

#: Labels that the refusal of a selector names.
LABELS_NAMED_MAX: Final = 8


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment, and the devices that it selects at the moment."""

    deployment: Deployment
    devices: tuple[str, ...]


def deploy(
    repo: Path,
    name: str,
    version: str | None = None,
    *,
    selector: str,
    percent: float = 100.0,
    activate_after: datetime | None = None,
    again: bool = False,
    pin: bool = False,
    allow_empty: bool = False,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Deployed:
    """Sign that devices run a release.

    The same bundles for the same selector continue the earlier deployment: its percentage and time change, and a larger
    percentage keeps all devices of a smaller one. Bundles that were published since make another deployment, so that
    devices without a bundle for their board look again.

    Args:
        repo: the repository's folder.
        name: the model.
        version: None takes the version that was published last and isn't withdrawn.
        selector: the devices, by labels and ids (`edgeml_core.selectors`); empty selects all.
        percent: of the devices selected, more than 0, at most 100.
        activate_after: devices fetch and probe the release at once, and serve it from this time on; None is at once.
        again: devices that failed at the earlier deployment, or rolled it back, try it once more.
        pin: the deployment holds against all that aren't pinned, also later ones, until `unpin`.
        allow_empty: permit a selector that matches no enrolled device.
        dry_run: change nothing, and return what would be deployed.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, for a bad percentage or selector, or one that matches no device; `repo-invalid`;
            `release-unknown`; `release-withdrawn`.
    """
    if not 0 < percent <= 100:
        raise UsageError("usage", f"{percent:g} % is not within 0 and 100 %", "give more than 0 %, at most 100 %")
    repository = layout.opened(repo)
    with repository.locked():
        rule = draft(repository, name, version, selectors.parse(selector), allow_empty=allow_empty)
        document = repository.document()
        if not pin:
            check_no_rollout(document, name)
        given = {"percent": percent, "activate_after": activate_after, "pinned": pin}
        deployment = _named(document, msgspec.structs.replace(rule, **given))
        others = kept(document.deployments, deployment)
        if again and any(it.id == deployment.id for it in document.deployments):
            deployment = msgspec.structs.replace(deployment, id=desired.next_attempt(deployment.id))
        changed = msgspec.structs.replace(document, deployments=(*others, deployment))
        if not dry_run:
            now = now or layout.utc_now()
            repository.audit.append("deploy", deployment.id, facts(deployment), now=now)
            repository.write_document(changed, now)
    return Deployed(deployment=deployment, devices=tuple(_included(changed, deployment, repository.labels())))


def facts(deployment: Deployment) -> dict[str, object]:
    """Return the parts of a deployment that the audit log has."""
    return {
        "version": deployment.version,
        "selector": deployment.selector,
        "percent": f"{deployment.percent:g}",
        "activate after": deployment.activate_after,
        "pinned": deployment.pinned or None,
        "bundles": ",".join(it.manifest_sha256 for it in deployment.bundles),
    }


def undeploy(repo: Path, name: str, *, selector: str = selectors.EVERYONE, now: datetime | None = None) -> Deployed:
    """Sign that devices stop serving a model and free its disk. Pinned devices keep it.

    The removal stays in the document, for devices that are away, until another deployment takes its place.

    Args:
        repo: the repository's folder.
        name: the model.
        selector: the devices; empty selects all.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, for a model without a deployment, or a selector that matches no device; `repo-invalid`.
    """
    wanted = selectors.parse(selector)
    repository = layout.opened(repo)
    with repository.locked():
        document = repository.document()
        deployed = {it.name for it in document.deployments if not it.removes}
        if name not in deployed:
            raise UsageError("usage", f"no deployment of {name!r} is signed", _hint(name, deployed))
        check_no_rollout(document, name)
        check_selected(wanted, repository.labels())
        removal = Deployment(
            id=f"{name}-removal-{repository.fleet.version() + 1}",
            name=name,
            version="",
            selector=str(wanted),
            percent=100.0,
            bundles=(),
        )
        changed = msgspec.structs.replace(document, deployments=(*kept(document.deployments, removal), removal))
        now = now or layout.utc_now()
        repository.audit.append("undeploy", removal.id, facts(removal), now=now)
        repository.write_document(changed, now)
    return Deployed(deployment=removal, devices=tuple(_included(changed, removal, repository.labels())))


def unpin(repo: Path, name: str, *, selector: str = selectors.EVERYONE, now: datetime | None = None) -> tuple[str, ...]:
    """Take pinned deployments of a model out of the document, so that its other deployments hold again.

    Args:
        repo: the repository's folder.
        name: the model.
        selector: the pins whose devices it selects all; empty selects all pins.
        now: the time to sign at; by default the clock's.

    Returns:
        The ids of the deployments.

    Raises:
        UsageError: `usage`, when there is no such pin; `repo-invalid`.
    """
    wanted = selectors.parse(selector)
    repository = layout.opened(repo)
    with repository.locked():
        document = repository.document()
        pins = [it for it in document.deployments if it.pinned and it.name == name]
        ended = [it for it in pins if wanted.covers(selectors.parse(it.selector))]
        if not ended:
            known = "; ".join(it.selector or "all" for it in pins)
            hint = f"name one of the pins: {known}" if known else "see the deployments with `edgeml fleet status`"
            raise UsageError("usage", f"{name} has no pin for {str(wanted) or 'any device'!r}", hint)
        left = tuple(it for it in document.deployments if it not in ended)
        now = now or layout.utc_now()
        for pin in ended:
            repository.audit.append("unpin", pin.id, facts(pin), now=now)
        repository.write_document(msgspec.structs.replace(document, deployments=left), now)
    return tuple(it.id for it in ended)


def draft(
    repository: RepositoryFolder, name: str, version: str | None, wanted: Selector, *, allow_empty: bool
) -> Deployment:
    """Make a deployment of a version to all devices of a selector, to be signed. The caller holds the lock.

    Raises:
        UsageError: `usage`, when the selector matches no device; `release-unknown`; `release-withdrawn`;
            `release-pruned`.
    """
    chosen = _choose(releases(repository), name, version)
    for release in chosen:
        if repository.chunks.missing(chunk_ids.stored(release)):
            message = f"chunks of {release.manifest.stem} were removed from the repository"
            raise UsageError("release-pruned", message, "publish its bundle again, which restores them")
    if not allow_empty:
        check_selected(wanted, repository.labels())
    manifest = chosen[0].manifest
    return Deployment(
        # The document's next version makes the id unique.
        id=f"{name}-{manifest.version}-{repository.fleet.version() + 1}",
        name=name,
        version=manifest.version,
        selector=str(wanted),
        percent=100.0,
        bundles=tuple(_wanted(release) for release in chosen),
    )


def check_no_rollout(document: FleetDocument, name: str) -> None:
    """Check that no rollout of a model is under way: another deployment would change which devices it reaches.

    Raises:
        UsageError: `usage`.
    """
    for deployment in document.deployments:
        if deployment.in_waves and deployment.name == name:
            raise rollout_error(deployment.id)


def rollout_error(rollout: str) -> UsageError:
    """Make the error for a deployment beside a rollout of the same model."""
    hint = f"end it first: `edgeml fleet rollout abort {rollout}`, or wait until it is complete"
    return UsageError("usage", f"the rollout {rollout} is under way", hint)


def with_free_id(deployment: Deployment, taken: Container[str]) -> Deployment:
    """Return the deployment with another number in its id, if that one is taken by a rollout that was never signed."""
    stem, _, number = deployment.id.rpartition("-")
    free = next(it for it in count(int(number)) if f"{stem}-{it}" not in taken)
    return msgspec.structs.replace(deployment, id=f"{stem}-{free}")


def check_selected(selector: Selector, labels: Mapping[str, Mapping[str, str]]) -> None:
    """Check that a selector matches a device. An empty one always does: it is for devices to come, too.

    Args:
        selector: for the devices of a deployment.
        labels: of each enrolled device.

    Raises:
        UsageError: `usage`; the message names the labels that exist.
    """
    if not selector.groups or any(selectors.matches(str(selector), device, it) for device, it in labels.items()):
        return
    keys = {term.key for group in selector.groups for term in group}
    known = sorted({f"{key}={value}" for it in labels.values() for key, value in it.items() if key in keys})
    found = f"; there are {', '.join(known[:LABELS_NAMED_MAX])}" if known else ""
    message = f"no enrolled device matches {str(selector)!r}{found}"
    raise UsageError(
        "usage", message, "correct the selector, or give --allow-empty for devices that are enrolled later"
    )


def _included(
    document: FleetDocument, deployment: Deployment, labels: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Find the devices that a deployment selects now."""
    for device, own in labels.items():
        if desired.wanted_by(document, device, own).get(deployment.name) == deployment:
            yield device


def _choose(published: Sequence[Release], name: str, version: str | None) -> list[Release]:
    """Find all bundles of the version, or of the version that was published last and isn't withdrawn."""
    check_published(published, name, version)
    of_name = [it for it in published if it.manifest.name == name]
    chosen = [it for it in of_name if not it.withdrawn and version in (None, it.manifest.version)]
    if not chosen:
        usable = {it.manifest.version for it in of_name if not it.withdrawn}
        hint = f"deploy one of {', '.join(sorted(usable))}" if usable else "publish another version"
        what = f"{name} {version}" if version else f"every version of {name}"
        raise UsageError("release-withdrawn", f"{what} is withdrawn", hint)
    return [it for it in chosen if it.manifest.version == chosen[-1].manifest.version]


def check_published(published: Sequence[Release], name: str, version: str | None) -> None:
    """Check that a model, and a version of it, is among the releases.

    Raises:
        UsageError: `release-unknown`; the hint names close matches.
    """
    known = {it.manifest.version for it in published if it.manifest.name == name}
    if not known:
        names_known = {it.manifest.name for it in published}
        raise UsageError("release-unknown", f"no release of {name!r} is published", _hint(name, names_known))
    if version is not None and version not in known:
        raise UsageError("release-unknown", f"{name} has no version {version!r}", _hint(version, known))


def _hint(name: str, known: set[str]) -> str:
    if not known:
        return "publish a bundle first: `edgeml publish BUNDLE --repo DIR`"
    close = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else f"name a published one: {', '.join(sorted(known))}"


def _wanted(release: Release) -> Wanted:
    manifest = release.manifest
    return Wanted(
        target=manifest.target,
        format=manifest.file_format,
        arch=manifest.cpu.arch,
        cpu_features=manifest.cpu.features,
        manifest_sha256=release.manifest_sha256,
        group=release.group,
    )


def _named(document: FleetDocument, new: Deployment) -> Deployment:
    """Name a deployment: by the id of the one that it continues, else by its own, unique by the document's version."""
    for deployment in document.deployments:
        same = {"id": new.id, "percent": new.percent, "activate_after": new.activate_after}
        if msgspec.structs.replace(deployment, **same) == new:
            return msgspec.structs.replace(new, id=deployment.id)
    return new


def kept(deployments: Iterable[Deployment], new: Deployment) -> list[Deployment]:
    """Return the deployments that still select devices beside a new one: those that it doesn't continue or replace.

    A rollout's stays beside a pin: it tells that a rollout of the model is under way.
    """
    wide = selectors.parse(new.selector)

    def is_replaced(old: Deployment) -> bool:
        if old.name != new.name or new.percent < 100 or (old.pinned and not new.pinned) or old.in_waves:
            return False
        return wide.covers(selectors.parse(old.selector))

    return [it for it in deployments if it.id != new.id and not is_replaced(it)]
