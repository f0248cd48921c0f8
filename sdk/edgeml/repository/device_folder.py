"""The folder that is copied to a device: agent.toml, trust anchors, its record, group keys, the broker's authority.

Certificates are not made here. An operator adds a certificate of the device's own to agent.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
from cryptography import x509

from edgeml.repository import groups as group_keys
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import broker, records
from edgeml_core.errors import UsageError
from edgeml_io import files
from edgeml_io.password_file import with_password

AGENT_CONFIG: Final = "agent.toml"
TRUST_FOLDER: Final = "trust"
CA_FILE: Final = "broker-ca.pem"
PASSWORD_FILE: Final = "broker.password"  # noqa: S105 - a file's name
#: Readable by its owner only: the broker's URL may hold a password.
_SECRET_MODE: Final = 0o600
_GROUPS_MODE: Final = 0o700


class DeviceFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the host that a device gets a copy of, and the folder of the device's store.

    Attributes:
        ca: PEM file of the broker's authority; None takes those of the device's system.
        password_file: the file with the password of the user in the broker's URL.
        store: an absolute path on the device; None is `store` beside agent.toml.
    """

    ca: Path | None = None
    password_file: Path | None = None
    store: str | None = None


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The checked content of `DeviceFiles`."""

    ca: bytes | None
    password: str | None
    store: str


def read(broker_url: str | None, given: DeviceFiles) -> Contents:
    """Read and check the files that a device gets.

    Raises:
        UsageError: `usage`, for a malformed URL, a file that can't be used, or a store whose path isn't absolute.
    """
    url = None if broker_url is None else broker.parse(broker_url)
    if given.store is not None and not (PurePosixPath(given.store).is_absolute() and given.store.isprintable()):
        hint = "name the folder as it is on the device, such as /var/lib/edgeml"
        raise UsageError("usage", f"the store {given.store!r} is no absolute path", hint)
    if given.password_file is not None and url is None:
        raise UsageError("usage", "a password file is given without a broker", "name the broker's URL with its user")
    return Contents(
        ca=None if given.ca is None else _authority(given.ca),
        password=None
        if given.password_file is None or url is None
        else with_password(url, given.password_file).password,
        store=given.store or "store",
    )


def _authority(path: Path) -> bytes:
    hint = "name the PEM file with the certificate of the authority that has signed the broker's"
    try:
        content = path.read_bytes()
        x509.load_pem_x509_certificates(content)
    except OSError as error:
        raise UsageError("usage", f"the authority {path} can't be read: {error.strerror}", hint) from error
    except ValueError as error:
        raise UsageError("usage", f"{path} has no certificate in PEM", hint) from error
    if b"PRIVATE KEY" in content:
        raise UsageError("usage", f"{path} holds a private key, which no device may have", hint)
    return content


def check_own(out_dir: Path, device_id: str) -> None:
    """Refuse a folder with the configuration of another device: one of both would answer to the wrong name.

    Raises:
        UsageError: `usage`.
    """
    path = out_dir / AGENT_CONFIG
    try:
        found = tomllib.loads(path.read_text())["device"]["id"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("usage", f"{path} can't be read: {error}", "name an empty folder") from error
    if found != device_id:
        raise UsageError("usage", f"{path} belongs to device {found!r}", "name another folder")


def write(
    out_dir: Path,
    config: str,
    repository: RepositoryFolder,
    *,
    record: bytes,
    group_secrets: Mapping[str, str],
    contents: Contents,
) -> None:
    """Write the folder, with the device's signed record beside the trust anchors; agent.toml is last.

    Raises:
        UsageError: `usage`, when it can't be written.
    """
    try:
        (out_dir / TRUST_FOLDER).mkdir(parents=True, exist_ok=True)
        for signed in repository.both:
            files.write(out_dir / TRUST_FOLDER / f"{signed.name}.root.json", signed.newest_root())
        files.write(out_dir / TRUST_FOLDER / records.RECORD_FILE, record)
        (out_dir / group_keys.FOLDER).mkdir(mode=_GROUPS_MODE, exist_ok=True)
        for group, key in group_secrets.items():
            files.write(out_dir / group_keys.FOLDER / f"{group}{group_keys.SUFFIX}", key.encode(), mode=_SECRET_MODE)
        if contents.ca is not None:
            files.write(out_dir / CA_FILE, contents.ca)
        if contents.password is not None:
            files.write(out_dir / PASSWORD_FILE, f"{contents.password}\n".encode(), mode=_SECRET_MODE)
        files.write(out_dir / AGENT_CONFIG, config.encode(), mode=_SECRET_MODE)
    except OSError as error:
        raise UsageError("usage", f"{out_dir} can't be written", "name a folder that you may write to") from error


def config(device_id: str, fleet: str, broker_url: str | None, contents: Contents) -> str:
    """Return the text of agent.toml."""
    url = f"url = {_quoted(broker_url)}" if broker_url else '# url = "mqtts://HOST:8883"'
    password = f'{"# " if contents.password is None else ""}password_file = "{PASSWORD_FILE}"'
    authority = f'{"# " if contents.ca is None else ""}ca = "{CA_FILE}"'
    return f"""\
# One device of the fleet {fleet}; paths are relative to this file.

[device]
id = "{device_id}"
fleet = "{fleet}"

[broker]
{url}
{password}
{authority}
# cert = "device.pem"
# key = "device.key"

[store]
dir = {_quoted(contents.store)}
# max_bytes = 4000000000

[serve]
http = "127.0.0.1:8080"
# token_file = "token"

[trust]
root = "{TRUST_FOLDER}"
groups = "{group_keys.FOLDER}"
"""


def _quoted(text: str) -> str:
    """Quote a text without control characters: JSON's escapes of the rest are TOML's too."""
    return msgspec.json.encode(text).decode()
