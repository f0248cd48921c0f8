"""Enrollment of a device: its id and labels in the signed fleet document, its trust anchors and agent.toml in a folder.

Certificates are not made here: an operator adds the broker's CA and the device's own certificate to agent.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import groups as group_keys
from edgeml.repository import layout
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import broker, names
from edgeml_core.desired import Device, FleetDocument
from edgeml_core.errors import UsageError
from edgeml_io import files

AGENT_CONFIG: Final = "agent.toml"
TRUST_FOLDER: Final = "trust"
#: Users to whom the shipped access list (docker/mosquitto/acl) gives rights of their own; `echo` is in its topics.
_NO_DEVICES: Final = ("client", "echo", "homeassistant", "operator", "origin")
#: Readable by its owner only: the broker's URL may hold a password.
_CONFIG_MODE: Final = 0o600
_GROUPS_MODE: Final = 0o700


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
    now: datetime | None = None,
) -> Enrolled:
    """Add a device to the fleet, and write the files that it needs to `out_dir`.

    Args:
        repo: the repository's folder.
        device_id: unique in the fleet.
        labels: signed; deployments select by them. `target` names the board.
        broker_url: `mqtt[s]://...`; None leaves it to EDGEML_BROKER_URL on the device.
        groups: the device gets their keys, to read models that are encrypted for them.
        out_dir: gets agent.toml, trust/ and groups/ before the device is signed. After a crash between, enroll again.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, for a bad id, URL or folder, or the folder of another device; `repo-invalid`;
            `device-exists`.
    """
    names.require_name(device_id, "device")
    if device_id in _NO_DEVICES:
        message = f"the broker's shipped access list gives {device_id!r} rights that no device should have"
        raise UsageError("usage", message, "choose another id")
    _check_own(out_dir, device_id)
    if broker_url is not None:
        broker.parse(broker_url)
    repository = layout.opened(repo)
    with repository.locked():
        document = repository.document()
        if device_id in document.devices:
            message = f"device {device_id!r} is enrolled already"
            raise UsageError(
                "device-exists", message, "choose another id, or use the folder that was made when it was enrolled"
            )
        keys = {group: repository.groups.make(group) for group in groups}
        _write_folder(out_dir, _config(device_id, repository.fleet_name, broker_url), repository, keys)
        devices = {**document.devices, device_id: Device(labels=dict(labels))}
        changed = FleetDocument(fleet=document.fleet, devices=devices, deployments=document.deployments)
        repository.write_document(changed, now or layout.utc_now())
    config = str(out_dir / AGENT_CONFIG)
    return Enrolled(device=device_id, labels=dict(labels), fleet=repository.fleet_name, config=config)


def _check_own(out_dir: Path, device_id: str) -> None:
    """Refuse a folder with the configuration of another device: one of both would answer to the wrong name."""
    path = out_dir / AGENT_CONFIG
    try:
        found = tomllib.loads(path.read_text())["device"]["id"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("usage", f"{path} can't be read: {error}", "name an empty folder") from error
    if found != device_id:
        raise UsageError("usage", f"{path} belongs to device {found!r}", "name another folder")


def _write_folder(out_dir: Path, config: str, repository: RepositoryFolder, keys: Mapping[str, str]) -> None:
    try:
        (out_dir / TRUST_FOLDER).mkdir(parents=True, exist_ok=True)
        for signed in repository.both:
            files.write(out_dir / TRUST_FOLDER / f"{signed.name}.root.json", signed.newest_root())
        (out_dir / group_keys.FOLDER).mkdir(mode=_GROUPS_MODE, exist_ok=True)
        for group, key in keys.items():
            files.write(out_dir / group_keys.FOLDER / f"{group}{group_keys.SUFFIX}", key.encode(), mode=_CONFIG_MODE)
        files.write(out_dir / AGENT_CONFIG, config.encode(), mode=_CONFIG_MODE)
    except OSError as error:
        raise UsageError("usage", f"{out_dir} can't be written", "name a folder that you may write to") from error


def _config(device_id: str, fleet: str, broker_url: str | None) -> str:
    # A valid URL has no control characters; JSON's escapes of the rest are TOML's too.
    url = f"url = {msgspec.json.encode(broker_url).decode()}" if broker_url else '# url = "mqtts://HOST:8883"'
    return f"""\
# One device of the fleet {fleet}; paths are relative to this file.

[device]
id = "{device_id}"
fleet = "{fleet}"

[broker]
{url}
# ca = "broker-ca.pem"
# cert = "device.pem"
# key = "device.key"

[store]
dir = "store"
# max_bytes = 4000000000

[serve]
http = "127.0.0.1:8080"
# token_file = "token"

[trust]
root = "{TRUST_FOLDER}"
groups = "{group_keys.FOLDER}"
"""
