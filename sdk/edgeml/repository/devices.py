"""Enrollment of a device: its id and labels in the signed fleet document. `device_folder` writes its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import device_folder, layout
from edgeml.repository.device_folder import AGENT_CONFIG, DeviceFiles
from edgeml_core import names
from edgeml_core.desired import Device
from edgeml_core.errors import UsageError

#: Users to whom the shipped access list (docker/mosquitto/acl) gives rights of their own; `echo` is in its topics.
_NO_DEVICES: Final = ("client", "echo", "homeassistant", "operator", "origin")


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """One enrolled device, and the folder to copy to it."""

    device: str
    labels: dict[str, str]
    fleet: str
    config: str

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


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
        out_dir: gets agent.toml, trust/ and groups/ before the device is signed. After a crash between, enroll again.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, for a bad id, URL, file or folder, or the folder of another device; `repo-invalid`;
            `device-exists`.
    """
    names.require_name(device_id, "device")
    if device_id in _NO_DEVICES:
        message = f"the broker's shipped access list gives {device_id!r} rights that no device should have"
        raise UsageError("usage", message, "choose another id")
    device_folder.check_own(out_dir, device_id)
    contents = device_folder.read(broker_url, files or DeviceFiles())
    repository = layout.opened(repo)
    with repository.locked():
        document = repository.document()
        if device_id in document.devices:
            message = f"device {device_id!r} is enrolled already"
            raise UsageError(
                "device-exists", message, "choose another id, or use the folder that was made when it was enrolled"
            )
        keys = {group: repository.groups.make(group) for group in groups}
        config = device_folder.config(device_id, repository.fleet_name, broker_url, contents)
        device_folder.write(out_dir, config, repository, keys, contents)
        devices = {**document.devices, device_id: Device(labels=dict(labels))}
        changed = msgspec.structs.replace(document, devices=devices)
        now = now or layout.utc_now()
        pairs = ",".join(f"{key}={value}" for key, value in labels.items())
        repository.audit.append("enroll", device_id, {"labels": pairs, "groups": ",".join(groups)}, now=now)
        repository.write_document(changed, now)
    path = str(out_dir / AGENT_CONFIG)
    return Enrolled(device=device_id, labels=dict(labels), fleet=repository.fleet_name, config=path)
