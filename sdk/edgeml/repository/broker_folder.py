"""The folder of a broker's configuration: files for Mosquitto, with the rights that it needs to read them.

    mosquitto.conf, acl             `broker_config`
    openssl.cnf                     the same; Mosquitto's environment names it
    broker.crt, broker.key          the server's certificate and key
    device-ca.crt                   the authority of clients
    revoked.crl, revoked/HASH.rN    lists of revoked certificates; a running broker reads the next N by itself
    data/                           Mosquitto's own

`write` makes one, `refresh` writes all known ones again after a change, and `forget` ends that.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from edgeml.repository import broker_config, certificates, device_ca
from edgeml.repository.broker_config import BrokerSettings
from edgeml.repository.device_ca import BROKER_CA, DEVICE_CA
from edgeml.repository.layout import RepositoryFolder
from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_io import files

CONF_FILE: Final = "mosquitto.conf"
ACL_FILE: Final = "acl"
OPENSSL_FILE: Final = "openssl.cnf"
LISTS_FOLDER: Final = "revoked"
CERTIFICATE_FILE: Final = "broker.crt"
KEY_FILE: Final = "broker.key"
_AUTHORITY_FILE: Final = "device-ca.crt"
_FOLDERS: Final = (LISTS_FOLDER, "data")
#: The user that Mosquitto's packages make.
_PACKAGED_USER: Final = "mosquitto"
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_ENTER_BIT: Final = 0o001


class BrokerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A broker's configuration that was written: the broker's address, the file, and the user as which it runs.

    `default_url` is the address that devices are enrolled with: another one, when the fleet has another broker.
    """

    url: str
    default_url: str
    conf: str
    user: str

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return dict(msgspec.to_builtins(self))


def write(
    repository: RepositoryFolder,
    folder: Path,
    names: tuple[str, ...],
    now: datetime,
    *,
    port: int = broker_config.DEFAULT_PORT,
    seen_at: str | None = None,
) -> BrokerSettings:
    """Make the folder of a broker, or write it again, and remember it.

    The first one's address is the default of devices, until that folder is forgotten.

    Args:
        repository: the caller holds its lock.
        folder: made when it is missing.
        names: host names and addresses by which devices reach the broker.
        now: the time to sign at.
        port: of the listener.
        seen_at: the folder as the broker sees it; None is `folder` itself.

    Raises:
        UsageError: `usage`, for a bad name or a folder that can't be written; `repo-invalid`.
    """
    for name in names:
        certificates.check_host_name(name)
    try:
        for it in (folder, *(folder / inner for inner in _FOLDERS)):
            it.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        place = folder.resolve()
        _check_own(repository, place)
        settings = BrokerSettings(names=names, port=port, seen_at=seen_at or str(place), user=_broker_user(place))
        certify(repository, place, settings.names, now)
        _fill(repository, place, settings)
        _hand_over(place)
    except OSError as error:
        raise UsageError(
            "usage", f"{folder} can't be written: {error}", "name a folder that you may write to"
        ) from error
    repository.enrollments.set_broker_folder(str(place), msgspec.json.encode(settings).decode())
    others = [address(it) for path, it in _known(repository).items() if path != str(place)]
    if repository.enrollments.address("broker") not in others:
        repository.enrollments.set_address("broker", address(settings))
    return settings


def forget(repository: RepositoryFolder, folder: Path) -> None:
    """Leave a folder alone from now on; the caller holds the lock.

    Where devices have this broker by default, another known one takes its place, or none.

    Raises:
        UsageError: `usage`, when the folder isn't known.
    """
    known, path = _known(repository), str(folder.resolve())
    if path not in known:
        message = f"{path} isn't the folder of a broker of this repository; known are {', '.join(known) or 'none'}"
        raise UsageError("usage", message, "name a folder that `edgeml fleet broker-config` wrote")
    forgotten = known.pop(path)
    repository.enrollments.forget_broker_folder(path)
    if repository.enrollments.address("broker") == address(forgotten):
        repository.enrollments.set_address("broker", next(map(address, known.values()), ""))


def _known(repository: RepositoryFolder) -> dict[str, BrokerSettings]:
    """Return the settings of all known folders by their paths."""
    folders = repository.enrollments.broker_folders()
    return {path: decoding.from_json(encoded, BrokerSettings) for path, encoded in folders.items()}


def _check_own(repository: RepositoryFolder, folder: Path) -> None:
    """Refuse the folder of another repository's broker, whose clients would lose it.

    Raises:
        UsageError: `usage`. OSError.
    """
    present = folder / _AUTHORITY_FILE
    if present.exists() and present.read_bytes() != repository.authorities.path(DEVICE_CA).read_bytes():
        raise UsageError("usage", f"{folder} has the configuration of another fleet's broker", "name another folder")


def refresh(repository: RepositoryFolder, now: datetime) -> list[str]:
    """Write the access list and the revoked certificates of all known folders again; the caller holds the lock.

    Returns:
        The folders that can't be written, with the reason.
    """
    failed = []
    for path, settings in _known(repository).items():
        if not Path(path).is_dir():
            continue  # moved, or on another machine; `unreadable` tells
        try:
            _fill(repository, Path(path), settings)
            if not repository.authorities.asks(BROKER_CA):
                certify(repository, Path(path), settings.names, now)
            _hand_over(Path(path))
        except (OSError, UsageError) as error:
            failed.append(f"{path}: {error}")
    return failed


def prune(folder: Path) -> None:
    """Keep the newest list of revoked certificates alone, while the broker is down: it reads them all when it starts.

    A running one looks for the number after the last that it has read, and would miss a list with a lower number.
    """
    lists = sorted((folder / LISTS_FOLDER).glob("*.r*"), key=lambda path: int(path.suffix[2:]))
    for old in lists[:-1]:
        old.unlink()
    for newest in lists[-1:]:
        newest.replace(newest.with_suffix(".r0"))


def address(settings: BrokerSettings) -> str:
    """Return the broker's address, as devices have it."""
    name = f"[{settings.names[0]}]" if ":" in settings.names[0] else settings.names[0]
    return f"mqtts://{name}:{settings.port}"


def _fill(repository: RepositoryFolder, folder: Path, settings: BrokerSettings) -> None:
    """Write all but the server's certificate; a revocation must not wait for a key that lies offline."""
    enrollments, authorities = repository.enrollments, repository.authorities
    revoked = enrollments.revoked_names()
    issued = enrollments.names("operator", "client", "homeassistant", "relay")
    clients = {**broker_config.OWN_CLIENTS, **dict(issued)}
    allowed = [(name, role) for name, role in clients.items() if name not in revoked]
    access_list = broker_config.access_list(repository.fleet_name, allowed, revoked)
    _put(folder / _AUTHORITY_FILE, authorities.path(DEVICE_CA).read_bytes())
    _put_list(folder, x509.Name(authorities.certificate(DEVICE_CA).subject), authorities.revoked())
    _put(folder / ACL_FILE, access_list.encode())
    _put(folder / OPENSSL_FILE, broker_config.OPENSSL_CONF.encode())
    _put(folder / CONF_FILE, broker_config.mosquitto_conf(settings).encode())


def certify(repository: RepositoryFolder, folder: Path, names: Sequence[str], now: datetime) -> None:
    """Write a server's certificate and key, unless the present one is for these names and half of it isn't over.

    Where the authority's key lies offline, the present one is kept until it expires.

    Raises:
        UsageError: `repo-invalid`, when the authority's key is needed, and missing or locked. OSError.
    """
    issuer = repository.authorities.certificate(BROKER_CA)
    present = _present(folder, issuer)
    is_usable = present is not None and certificates.has_names(present, names) and now < present.not_valid_after_utc
    if is_usable and due(folder, now) is None:
        return
    try:
        authority = repository.authorities.broker()
    except UsageError:
        if is_usable:
            return
        raise
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_server(names, key.public_key(), now)
    _put(folder / KEY_FILE, device_ca.key_pem(key))
    _put(folder / CERTIFICATE_FILE, certificates.pem(issued) + certificates.pem(issuer))


def due(folder: Path, now: datetime) -> datetime | None:
    """Return the end of a server's certificate if more than half of it is over; None if not, or if there is none."""
    present = _present(folder)
    return present.not_valid_after_utc if present is not None and certificates.is_past_half(present, now) else None


def brokers_due(repository: RepositoryFolder, now: datetime) -> list[str]:
    """Tell of each known broker whose certificate is due when it ends, and by which command it gets another."""
    told = []
    for path, settings in _known(repository).items():
        if ends := due(Path(path), now):
            names = [f"--host={name}" for name in settings.names]
            places = [f"--port={settings.port}", *([f"--at={settings.seen_at}"] if settings.seen_at != path else [])]
            command = ["edgeml", "fleet", "broker-config", path, f"--repo={repository.folder}", *names, *places]
            told.append(
                f"the certificate of the broker in {path} expires on {ends:%Y-%m-%d}: put {BROKER_CA}.pem"
                f" into {repository.keys.folder}, and run `{shlex.join(command)}`"
            )
    return told


def unreadable(repository: RepositoryFolder) -> list[str]:
    """Tell of each known broker whose certificate this machine can't read: nothing tells when that one is due."""
    return [
        f"the broker's folder {path} can't be read here: its certificate and its clients' rights aren't looked after."
        f" Mount it there, or run `edgeml fleet broker-config {shlex.quote(path)} --repo DIR --forget`"
        for path in _known(repository)
        if _present(Path(path)) is None
    ]


def _present(folder: Path, issuer: x509.Certificate | None = None) -> x509.Certificate | None:
    """Read a server's certificate; None if there is none, or it is another authority's."""
    try:
        present = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
        if issuer is not None:
            present.verify_directly_issued_by(issuer)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return None
    return present


def _put_list(folder: Path, issuer: x509.Name, revoked: bytes) -> None:
    """Add the list of revoked certificates as the next file that OpenSSL looks for, if it isn't the last one."""
    stem = certificates.lookup_hash(issuer)
    present = sorted((folder / LISTS_FOLDER).glob(f"{stem}.r*"), key=lambda path: int(path.suffix[2:]))
    if not present or present[-1].read_bytes() != revoked:
        _put(folder / LISTS_FOLDER / f"{stem}.r{len(present)}", revoked)
    _put(folder / "revoked.crl", revoked)


def _put(path: Path, data: bytes) -> None:
    """Write a file, if its content changes; the owner stays the folder's."""
    if not path.is_file() or path.read_bytes() != data:
        files.write(path, data, mode=_FILE_MODE)


def _broker_user(folder: Path) -> str:
    """Return the user as which root's Mosquitto runs: the folder's owner, who is the packages' user if root made it.

    That user must be able to reach the folder; where it can't, the broker runs as root.
    """
    owner = folder.stat().st_uid
    can_enter = all(it.stat().st_mode & _ENTER_BIT for it in folder.parents)
    if owner == os.geteuid() == 0 and can_enter and _uid(_PACKAGED_USER) is not None:
        os.chown(folder, pwd.getpwnam(_PACKAGED_USER).pw_uid, -1)
        return _PACKAGED_USER
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return _PACKAGED_USER  # a container's user has no name, and starts Mosquitto as itself


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _hand_over(folder: Path) -> None:
    """Give all files to the folder's owner: Mosquitto drops root's rights before it reads the key."""
    owner = folder.stat().st_uid
    if os.geteuid() == 0:
        for it in folder.rglob("*"):
            if it.stat().st_uid != owner:
                os.chown(it, owner, -1)
