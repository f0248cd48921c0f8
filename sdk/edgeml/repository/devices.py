"""The devices of the fleet: enroll, relabel, revoke and replace them. Each step signs one record of one device.

`records` keeps the records, and `device_folder` writes the files of a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import device_folder, layout
from edgeml.repository.device_folder import AGENT_CONFIG, DeviceFiles
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import desired, names
from edgeml_core.desired import Deployment
from edgeml_core.errors import UsageError
from edgeml_core.records import DeviceRecord

#: Users to whom the shipped access list (docker/mosquitto/acl) gives rights of their own; `echo` is in its topics.
_NO_DEVICES: Final = ("client", "echo", "homeassistant", "operator", "origin")


class EnrolledDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device as its newest signed record has it. `version` grows with each change."""

    id: str
    labels: dict[str, str]
    groups: tuple[str, ...]
    version: int
    revoked: bool

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """One enrolled device, and the folder to copy to it."""

    device: str
    labels: dict[str, str]
    fleet: str
    config: str

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def devices(repo: Path) -> list[EnrolledDevice]:
    """List all devices by id, also revoked ones.

    Raises:
        UsageError: `repo-invalid`.
    """
    return [_of(known.record) for known in layout.opened(repo).records.all().values()]


def device(repo: Path, device_id: str) -> EnrolledDevice:
    """Return one device.

    Raises:
        UsageError: `device-unknown`; `repo-invalid`.
    """
    return _of(_record(layout.opened(repo), device_id))


def deployments_of(repo: Path, device_id: str) -> list[Deployment]:
    """List the deployments that include a device, by model; a revoked one has none.

    Raises:
        UsageError: `device-unknown`; `repo-invalid`.
    """
    repository = layout.opened(repo)
    record = _record(repository, device_id)
    wanted = {} if record.revoked else desired.wanted_by(repository.document(), device_id, record.labels)
    return [wanted[name] for name in sorted(wanted)]


def enroll(
    repo: Path,
    device_id: str,
    *,
    labels: Mapping[str, str],
    broker_url: str | None,
    out_dir: Path,
    groups: Sequence[str] = (),
    files: DeviceFiles | None = None,
    now: datetime | None = None,
) -> Enrolled:
    """Add a device to the fleet, and write the files that it needs to `out_dir`.

    Args:
        repo: the repository's folder.
        device_id: unique in the fleet.
        labels: signed; deployments select by them. `target` names the board.
        broker_url: `mqtt[s]://...`; None leaves it to EDGEML_BROKER_URL on the device.
        groups: the device gets their keys, to read models that are encrypted for them.
        files: the broker's authority and the password to copy, and where the device's store is.
        out_dir: gets agent.toml, trust/ and groups/ before the record is kept. After a crash between, enroll again.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, for a bad id, URL, file or folder, or the folder of another device; `repo-invalid`;
            `device-exists`.
    """
    names.require_name(device_id, "device")
    if device_id in _NO_DEVICES:
        message = f"the broker's shipped access list gives {device_id!r} rights that no device should have"
        raise UsageError("usage", message, "choose another id")
    repository = layout.opened(repo)
    with repository.locked():
        if repository.records.find(device_id) is not None:
            hint = "choose another id, or make a new folder for it with `edgeml device replace`"
            raise UsageError("device-exists", f"device {device_id!r} is enrolled already", hint)
        record = DeviceRecord(
            fleet=repository.fleet_name,
            device=device_id,
            version=1,
            labels=dict(labels),
            groups=tuple(groups),
            expires=repository.records.expiry(now or layout.utc_now()),
        )
        return _enroll(repository, record, broker_url, out_dir, files)


def replace(
    repo: Path, device_id: str, *, broker_url: str | None, out_dir: Path, files: DeviceFiles | None = None
) -> Enrolled:
    """Make a new folder for a device: for another board in the place of a broken one, or of one that was revoked.

    Labels and groups stay. Arguments and errors are those of `enroll`, and `device-unknown`.
    """
    repository = layout.opened(repo)
    with repository.locked():
        record = _next(repository, _record(repository, device_id), revoked=False)
        return _enroll(repository, record, broker_url, out_dir, files)


def relabel(repo: Path, device_id: str, *, labels: Mapping[str, str], removed: Collection[str] = ()) -> EnrolledDevice:
    """Change the labels of a device. A running `edgeml fleet serve` announces them; no other device reads them.

    Args:
        repo: the repository's folder.
        device_id: the device.
        labels: added, or replacing those of the same keys.
        removed: keys of labels to remove.

    Raises:
        UsageError: `device-unknown`; `usage`, when a key is removed that the device doesn't have, or when it is
            revoked; `repo-invalid`.
    """
    repository = layout.opened(repo)
    with repository.locked():
        record = _record(repository, device_id)
        if missing := set(removed) - record.labels.keys():
            present = ", ".join(sorted(record.labels)) or "none"
            message = f"{device_id} has no label {', '.join(sorted(missing))}; it has {present}"
            raise UsageError("usage", message, "remove labels that it has")
        if record.revoked:
            hint = "replace it first: `edgeml device replace`"
            raise UsageError("usage", f"device {device_id!r} is revoked", hint)
        kept = {key: value for key, value in record.labels.items() if key not in removed}
        kept.update(labels)
        if kept == record.labels:
            return _of(record)
        changed = _next(repository, record, labels=kept)
        repository.records.write(_sign(repository, "relabel", changed))
    return _of(changed)


def revoke(repo: Path, device_id: str) -> EnrolledDevice:
    """Revoke a device: a running `edgeml fleet serve` ignores it, and it gets nothing new.

    Raises:
        UsageError: `device-unknown`; `repo-invalid`.
    """
    repository = layout.opened(repo)
    with repository.locked():
        record = _record(repository, device_id)
        if not record.revoked:
            record = _next(repository, record, revoked=True)
            repository.records.write(_sign(repository, "revoke", record))
    return _of(record)


def _enroll(
    repository: RepositoryFolder, record: DeviceRecord, broker_url: str | None, out_dir: Path, files: DeviceFiles | None
) -> Enrolled:
    """Sign a record, write the device's folder, then keep the record."""
    device_folder.check_own(out_dir, record.device)
    contents = device_folder.read(broker_url, files or DeviceFiles())
    keys = {group: repository.groups.make(group) for group in record.groups}
    config = device_folder.config(record.device, repository.fleet_name, broker_url, contents)
    lines = _sign(repository, "enroll" if record.version == 1 else "replace", record)
    device_folder.write(out_dir, config, repository, record=lines[record.device], group_secrets=keys, contents=contents)
    repository.records.write(lines)
    path = str(out_dir / AGENT_CONFIG)
    return Enrolled(device=record.device, labels=record.labels, fleet=repository.fleet_name, config=path)


def _sign(repository: RepositoryFolder, act: str, record: DeviceRecord) -> dict[str, bytes]:
    """Log an act, and sign the record that it makes."""
    pairs = ",".join(f"{key}={value}" for key, value in record.labels.items())
    facts = {"labels": pairs, "groups": ",".join(record.groups), "version": str(record.version)}
    repository.audit.append(act, record.device, facts, now=layout.utc_now())
    return repository.records.sign([record])


def _record(repository: RepositoryFolder, device_id: str) -> DeviceRecord:
    record = repository.records.find(device_id)
    if record is None:
        hint = "see the devices and their labels with `edgeml device list`"
        raise UsageError("device-unknown", f"no device {device_id!r} is enrolled", hint)
    return record


def _next(repository: RepositoryFolder, record: DeviceRecord, **changes: object) -> DeviceRecord:
    expires = repository.records.expiry(layout.utc_now())
    return msgspec.structs.replace(record, version=record.version + 1, expires=expires, **changes)


def _of(record: DeviceRecord) -> EnrolledDevice:
    return EnrolledDevice(
        id=record.device, labels=record.labels, groups=record.groups, version=record.version, revoked=record.revoked
    )
