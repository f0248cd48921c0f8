"""The devices of the fleet: enroll, relabel, revoke and replace them. Each step signs one record of one device.

`records` keeps the records, `device_folder` writes the files of a device, and `client_certificates` issues and revokes
its certificate. Devices that enroll themselves come through `tokens`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from edgeml.repository import client_certificates, device_folder, layout
from edgeml.repository.broker_config import RESERVED_NAMES
from edgeml.repository.certificates import Role
from edgeml.repository.device_folder import AGENT_CONFIG, DeviceFiles
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import desired, names
from edgeml_core.desired import Deployment
from edgeml_core.enrollment import CERTIFICATE_FILE
from edgeml_core.errors import UsageError
from edgeml_core.records import DeviceRecord


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
    relay: bool = False,
    now: datetime | None = None,
) -> Enrolled:
    """Add a device to the fleet, and write the files that it needs to `out_dir`.

    Args:
        repo: the repository's folder.
        device_id: unique in the fleet.
        labels: signed; deployments select by them. `target` names the board.
        broker_url: `mqtt[s]://...`; None takes the address of the repository's own broker, if there is one, and else
            leaves it to EDGEML_BROKER_URL on the device. An address without a user asks for a certificate.
        groups: the device gets their keys, to read models that are encrypted for them.
        files: the broker's authority and the password to copy, and where the device's store is.
        relay: the broker lets the device pass on the messages of its site.
        out_dir: gets agent.toml, trust/ and groups/ before the record is kept. After a crash between, enroll again.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, for a bad id, URL, file or folder, or the folder of another device; `repo-invalid`;
            `device-exists`.
    """
    check_id(device_id)
    repository, now = layout.opened(repo), now or layout.utc_now()
    with repository.locked():
        if repository.has_device(device_id):
            hint = "choose another id, or make a new folder for it with `edgeml device replace`"
            raise UsageError("device-exists", f"device {device_id!r} is enrolled already", hint)
        client_certificates.check_name(repository, device_id, "device")
        record = _first(repository, device_id, labels, groups, now)
        return _enroll(repository, record, broker_url, out_dir, files, now=now, is_relay=relay)


def admit(
    repository: RepositoryFolder, device_id: str, labels: Mapping[str, str], groups: Sequence[str], now: datetime
) -> bytes:
    """Enroll a device with a token, and return its signed record; the caller holds the lock, and writes its files.

    A device that is enrolled already keeps its labels. It gets the groups, and is revoked no more.
    """
    present = repository.records.find(device_id)
    if present is None:
        record = _first(repository, device_id, labels, groups, now)
    else:
        missing = tuple(group for group in groups if group not in present.groups)
        if not missing and not present.revoked:
            return repository.records.encoded([device_id])[device_id]
        record = _next(repository, present, now, revoked=False, groups=(*present.groups, *missing))
    lines = _sign(repository, "enroll" if present is None else "replace", record, now)
    repository.records.write(lines)
    return lines[device_id]


def check_id(device_id: str) -> None:
    """Refuse an id that no device may have.

    Raises:
        UsageError: `usage`.
    """
    names.require_name(device_id, "device")
    if device_id in RESERVED_NAMES:
        message = f"the broker's access list gives {device_id!r} rights that no device should have"
        raise UsageError("usage", message, "choose another id")


def replace(
    repo: Path, device_id: str, *, broker_url: str | None, out_dir: Path, files: DeviceFiles | None = None
) -> Enrolled:
    """Make a new folder for a device: for another board in the place of a broken one, or of one that was revoked.

    Labels and groups stay, and so do the rights of a relay. The certificates that the device had are revoked.
    Arguments and errors are those of `enroll`, and `device-unknown`.
    """
    repository, now = layout.opened(repo), layout.utc_now()
    with repository.locked():
        record = _next(repository, _record(repository, device_id), now, revoked=False)
        is_relay = client_certificates.role_of(repository, device_id) == "relay"
        return _enroll(repository, record, broker_url, out_dir, files, now=now, is_relay=is_relay)


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
    repository, now = layout.opened(repo), layout.utc_now()
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
        changed = _next(repository, record, now, labels=kept)
        repository.records.write(_sign(repository, "relabel", changed, now))
    return _of(changed)


def revoke(repo: Path, device_id: str) -> EnrolledDevice:
    """Revoke a device and its certificates: a running `edgeml fleet serve` ignores it, and ends its connection.

    After an error the command may be repeated.

    Raises:
        UsageError: `device-unknown`; `repo-invalid`.
    """
    repository, now = layout.opened(repo), layout.utc_now()
    with repository.locked():
        record = _record(repository, device_id)
        if not record.revoked:
            record = _next(repository, record, now, revoked=True)
            repository.records.write(_sign(repository, "revoke", record, now))
        client_certificates.revoke_certificate(repository, device_id, now, ends_again=True)
    return _of(record)


def _enroll(
    repository: RepositoryFolder,
    record: DeviceRecord,
    broker_url: str | None,
    out_dir: Path,
    given: DeviceFiles | None,
    *,
    now: datetime,
    is_relay: bool,
) -> Enrolled:
    """Sign a record, write the device's folder, then keep the record. The certificates of another board end."""
    is_new = record.version == 1
    device_folder.check_own(out_dir, record.device)
    broker_url = broker_url or repository.enrollments.address("broker")
    contents = device_folder.read(broker_url, given or DeviceFiles())
    lines = _sign(repository, "enroll" if is_new else "replace", record, now)
    made = device_folder.files(repository, record.device, broker_url, contents, lines[record.device])
    last = {AGENT_CONFIG: made.pop(AGENT_CONFIG)}
    device_folder.write(out_dir, made)  # now, since a folder that can't be written should cost no certificate
    if not is_new:
        client_certificates.revoke_certificate(repository, record.device, now)
    if contents.has_certificate:
        role: Role = "relay" if is_relay else "device"
        last[CERTIFICATE_FILE] = client_certificates.issue_with_key(repository, record.device, role, now)
    device_folder.write(out_dir, last)
    repository.records.write(lines)
    if is_relay or not is_new:
        client_certificates.refresh_brokers(repository, now)
    path = str(out_dir / AGENT_CONFIG)
    return Enrolled(device=record.device, labels=record.labels, fleet=repository.fleet_name, config=path)


def _sign(repository: RepositoryFolder, act: str, record: DeviceRecord, now: datetime) -> dict[str, bytes]:
    """Log an act, and sign the record that it makes. The keys of its groups are made before."""
    for group in record.groups:
        repository.groups.make(group)
    pairs = ",".join(f"{key}={value}" for key, value in record.labels.items())
    facts = {"labels": pairs, "groups": ",".join(record.groups), "version": str(record.version)}
    repository.audit.append(act, record.device, facts, now=now)
    return repository.records.sign([record])


def _record(repository: RepositoryFolder, device_id: str) -> DeviceRecord:
    record = repository.records.find(device_id)
    if record is None:
        hint = "see the devices and their labels with `edgeml device list`"
        raise UsageError("device-unknown", f"no device {device_id!r} is enrolled", hint)
    return record


def _first(
    repository: RepositoryFolder, device_id: str, labels: Mapping[str, str], groups: Sequence[str], now: datetime
) -> DeviceRecord:
    return DeviceRecord(
        fleet=repository.fleet_name,
        device=device_id,
        version=1,
        labels=dict(labels),
        groups=tuple(groups),
        expires=repository.records.expiry(now),
    )


def _next(repository: RepositoryFolder, record: DeviceRecord, now: datetime, **changes: object) -> DeviceRecord:
    expires = repository.records.expiry(now)
    return msgspec.structs.replace(record, version=record.version + 1, expires=expires, **changes)


def _of(record: DeviceRecord) -> EnrolledDevice:
    return EnrolledDevice(
        id=record.device, labels=record.labels, groups=record.groups, version=record.version, revoked=record.revoked
    )
