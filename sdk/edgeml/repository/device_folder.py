"""The folder of a device: agent.toml, trust anchors, its record, group keys, the broker's authority and password.

The device's certificate is made by `client_certificates`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
from cryptography import x509

from edgeml.repository import groups as group_keys
from edgeml.repository.device_ca import BROKER_CA
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import broker, records
from edgeml_core.enrollment import CERTIFICATE_FILE
from edgeml_core.errors import UsageError
from edgeml_io import files as disk
from edgeml_io.password_file import with_password

AGENT_CONFIG: Final = "agent.toml"
TRUST_FOLDER: Final = "trust"
CA_FILE: Final = "broker-ca.pem"
PASSWORD_FILE: Final = "broker.password"  # noqa: S105 - a file's name
#: Readable by its owner only: the broker's URL may hold a password.
_SECRET_MODE: Final = 0o600
_GROUPS_MODE: Final = 0o700
#: Before the umask.
_PUBLIC_MODE: Final = 0o666
_FOLDER_MODE: Final = 0o777


class DeviceFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the host that a device gets a copy of, and the folder of the device's store.

    Attributes:
        ca: PEM file of the broker's authority; None takes the repository's for a device with a certificate, and else
            those of the device's system.
        password_file: the file with the password of the user in the broker's URL.
        store: an absolute path on the device; None is `store` beside agent.toml.
    """

    ca: Path | None = None
    password_file: Path | None = None
    store: str | None = None


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The checked content of `DeviceFiles`, and whether the device has a certificate in place of a user."""

    ca: bytes | None
    password: str | None
    store: str
    has_certificate: bool


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
        has_certificate=url is not None and url.tls and url.username is None,
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


def files(
    repository: RepositoryFolder,
    device_id: str,
    broker_url: str | None,
    contents: Contents,
    record: bytes,
) -> dict[str, bytes]:
    """Return a device's files by name, but for its certificate; agent.toml is last. `record` is its signed record."""
    made = {f"{TRUST_FOLDER}/{signed.name}.root.json": signed.newest_root() for signed in repository.both}
    made[f"{TRUST_FOLDER}/{records.RECORD_FILE}"] = record
    for group in records.decode(record).signed.groups:
        key = repository.groups.make(group)
        made[f"{group_keys.FOLDER}/{group}{group_keys.SUFFIX}"] = key.encode()
    authority = contents.ca
    if authority is None and contents.has_certificate:
        authority = repository.authorities.path(BROKER_CA).read_bytes()
    if authority is not None:
        made[CA_FILE] = authority
    if contents.password is not None:
        made[PASSWORD_FILE] = f"{contents.password}\n".encode()
    made[AGENT_CONFIG] = _config(device_id, repository.fleet_name, broker_url, contents, made.keys()).encode()
    return made


def write(out_dir: Path, made: Mapping[str, bytes]) -> None:
    """Write the folder; agent.toml is last.

    Raises:
        UsageError: `usage`, when it can't be written.
    """
    try:
        for folder, mode in ((TRUST_FOLDER, _FOLDER_MODE), (group_keys.FOLDER, _GROUPS_MODE)):
            (out_dir / folder).mkdir(mode=mode, parents=True, exist_ok=True)
        for name, content in sorted(made.items(), key=lambda it: it[0] == AGENT_CONFIG):
            is_public = name == CA_FILE or name.startswith(TRUST_FOLDER)
            disk.write(out_dir / name, content, mode=_PUBLIC_MODE if is_public else _SECRET_MODE)
    except OSError as error:
        raise UsageError("usage", f"{out_dir} can't be written", "name a folder that you may write to") from error


def _config(device_id: str, fleet: str, broker_url: str | None, contents: Contents, present: Collection[str]) -> str:
    """Return the text of agent.toml, which names the files that are present."""
    url = f"url = {_quoted(broker_url)}" if broker_url else '# url = "mqtts://HOST:8883"'
    password = f'{"" if PASSWORD_FILE in present else "# "}password_file = "{PASSWORD_FILE}"'
    authority = f'{"" if CA_FILE in present else "# "}ca = "{CA_FILE}"'
    certificate = f'{"" if contents.has_certificate else "# "}cert = "{CERTIFICATE_FILE}"'
    return f"""\
# One device of the fleet {fleet}; paths are relative to this file.

[device]
id = "{device_id}"
fleet = "{fleet}"

[broker]
{url}
{password}
{authority}
{certificate}
# key = "device.key", if it isn't in the file of the certificate

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
