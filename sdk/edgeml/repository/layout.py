"""The folder of a repository: its files, and how it is made, opened and locked.

    REPO/repo.toml              the fleet's name; `chunks`, where these lie in S3, if not in the folder; and [days]: how
                                long the signatures of a role last, if not the default
    REPO/keys/                  the signing keys: `keys`
    REPO/{releases,fleet}/{metadata,targets}/   the two TUF repositories
    REPO/devices/ab.jsonl       the signed records of the devices: `records`
    REPO/chunks/ab/ab12...      every chunk of every release: `store`
    REPO/authorities/           the certificates of the two authorities: `device_ca`
    REPO/enrollment.db          tokens and issued certificates: `enrollment_database`
    REPO/audit.jsonl            what operators and the controller did: `audit`
    REPO/selectors.json         selectors with names: `saved_selectors`
    REPO/staged/                the manifests of changes that lie on a stick to be signed: `staging`
    REPO/fleet.db               the registry of devices, where no other database is named

Only `keys` is secret. Publishing, deploying and `serve` write to the folder, one at a time.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository import audit, passphrase
from edgeml.repository.audit import AUDIT_FILE, AuditLog, Head
from edgeml.repository.device_ca import Authorities
from edgeml.repository.enrollment_database import EnrollmentDatabase
from edgeml.repository.groups import Groups
from edgeml.repository.keys import Keys
from edgeml.repository.records import Records
from edgeml.repository.signed import SignedRepository
from edgeml.repository.store import ChunkStore, Folder
from edgeml_core import desired, names, records, trust
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_io import files

CONFIG_FILE: Final = "repo.toml"
LOCK_FILE: Final = "lock"
#: Locked by the host that serves the folder.
SERVE_LOCK_FILE: Final = "serve.lock"
CHUNKS_FOLDER: Final = "chunks"
#: The fleet's database, unless `--database` names another.
DATABASE_FILE: Final = "fleet.db"
DEFAULT_FLEET: Final = "edge"
#: Where chunks may lie in S3: a bucket, and a prefix in it. No credentials.
CHUNKS_URL: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
#: Days; a century: a larger number is a typing error.
LIFETIME_MAX_DAYS: Final = 36_500


class RepositoryFolder:
    """An opened folder. Readers need no lock: every state on the disk is complete."""

    def __init__(
        self,
        folder: Path,
        fleet_name: str,
        lifetimes: Mapping[str, timedelta] = trust.EXPIRY,
        chunks_url: str = "",
    ) -> None:
        self.keys = Keys(folder / "keys")
        self.folder = folder
        self.fleet_name = fleet_name
        self.groups = Groups(folder / "keys")
        self.authorities = Authorities(folder)
        self.enrollments = EnrollmentDatabase(folder)
        self._chunks_url = chunks_url
        self.audit = AuditLog(folder / AUDIT_FILE)
        self.releases = SignedRepository(folder / trust.RELEASES, trust.RELEASES, self.keys, lifetimes)
        self.fleet = SignedRepository(folder / trust.FLEET, trust.FLEET, self.keys, lifetimes)
        self.records = Records(folder / records.RECORDS_DIR, self.fleet)

    @functools.cached_property
    def chunks(self) -> ChunkStore:
        """The chunks. The libraries for S3 are imported when they are used: that takes a second.

        Raises:
            UsageError: `extra-missing`, without s3fs. TransportError: see `Bucket`.
        """
        if not self._chunks_url:
            return ChunkStore(Folder(self.folder / CHUNKS_FOLDER))
        try:
            bucket = importlib.import_module("edgeml.repository.bucket")
        except ImportError as error:
            hint = "pip install 'edgeml-deploy[fleet-s3]'"
            raise UsageError("extra-missing", f"chunks in S3 need {error.name}", hint) from error
        return ChunkStore(bucket.Bucket(self._chunks_url))

    @property
    def both(self) -> tuple[SignedRepository, SignedRepository]:
        """The two TUF repositories: releases come before the deployments that name them."""
        return self.releases, self.fleet

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other writers, as long as the context lasts.

        Raises:
            UsageError: `repo-invalid`, when the folder can't be written; nothing is signed then.
        """
        try:
            with (self.folder / LOCK_FILE).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            hint = "check the owner of the repository's folder and the space on its disk, then repeat the command"
            raise UsageError("repo-invalid", f"{self.folder} can't be written: {error}", hint) from error

    @contextmanager
    def served(self, *, is_shared: bool = False) -> Iterator[None]:
        """Let no other host serve this folder, as long as the context lasts; other commands may write to it.

        Args:
            is_shared: whether hosts may serve it beside each other, if all set this: they share a database, too.

        Raises:
            UsageError: `usage`, when another host serves it; `repo-invalid`, when the folder can't be written.
        """
        try:
            lock = (self.folder / SERVE_LOCK_FILE).open("ab")
        except OSError as error:
            hint = "check the owner of the repository's folder and the space on its disk, then repeat the command"
            raise UsageError("repo-invalid", f"{self.folder} can't be written: {error}", hint) from error
        with lock:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"another `edgeml fleet serve` runs on {self.folder}"
                hint = "stop it, or see 'Several hosts' in docs/deploy.md for what they need"
                raise UsageError("usage", message, hint) from error
            yield

    def check_audit(self, printed: str = "") -> tuple[Head, Head]:
        """Check the audit log against the head in the signed fleet document.

        Args:
            printed: a head from elsewhere that the log must have, too.

        Returns:
            The log's head, and the newest one that it was compared with.

        Raises:
            RejectedError: `audit-broken`. UsageError: `usage`, for a malformed head; `repo-invalid`.
        """
        anchors = [audit.parse_head(text) for text in (self.document().audit, printed)]
        return audit.check(self.audit.lines(), *anchors), max(anchors, key=lambda it: it.number)

    def document(self) -> FleetDocument:
        """Read the signed fleet document."""
        return desired.decode(self.fleet.read([desired.FLEET_DOCUMENT])[desired.FLEET_DOCUMENT])

    def labels(self) -> dict[str, dict[str, str]]:
        """Return the signed labels of each enrolled device; revoked ones are left out."""
        return self.records.enrolled()

    def has_device(self, device_id: str) -> bool:
        """Return whether a device has a record, also a revoked one."""
        return self.records.find(device_id) is not None

    def write_document(self, document: FleetDocument, now: datetime) -> None:
        """Sign another fleet document, with the audit log's head; the caller holds the lock.

        Raises:
            UsageError: `usage`, when it is too long.
        """
        self.fleet.change({desired.FLEET_DOCUMENT: self.encode_document(document)}, now)

    def encode_document(self, document: FleetDocument, *, spare_bytes: int = 0) -> bytes:
        """Encode a fleet document with the audit log's head.

        Args:
            document: to be signed.
            spare_bytes: that it must leave free, for changes to come.

        Raises:
            UsageError: `usage`, when it is too long.
        """
        data = desired.encode(msgspec.structs.replace(document, audit=str(self.audit.head())))
        limit = desired.FLEET_DOCUMENT_MAX_BYTES - spare_bytes
        if len(data) > limit:
            message = f"the fleet document would have {len(data)} bytes, limit {limit}"
            hint = "deploy one version to all devices of a model, which replaces its other deployments"
            raise UsageError("usage", message, hint)
        return data


def init(
    path: Path, *, fleet: str = DEFAULT_FLEET, secret: str | None = None, now: datetime | None = None
) -> RepositoryFolder:
    """Make a repository with new keys. It is made beside `path` and renamed, so that it is complete or absent.

    Args:
        path: a folder that doesn't exist, or is empty.
        fleet: names the MQTT topics of all its devices.
        secret: the passphrase of the new keys; empty leaves them open. By default that in EDGEML_KEY_PASSPHRASE.
        now: the time to sign at; by default the clock's.

    Raises:
        UsageError: `usage`, when `path` has content or can't be written, or `fleet` is no name.
    """
    names.require_name(fleet, "fleet")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("usage", f"{path} exists and is not empty", "name a new folder for the repository")
    beside = path.absolute().with_name(f".{path.absolute().name}.new")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        _fill(beside, fleet, passphrase.from_environment() if secret is None else secret, now or utc_now())
        beside.replace(path.absolute())
        files.sync(path.absolute().parent)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise UsageError("usage", f"{path} can't be made", "name a folder that you may write to") from error
    return RepositoryFolder(path, fleet)


def _fill(folder: Path, fleet: str, secret: str, now: datetime) -> None:
    folder.mkdir(parents=True)
    (folder / CHUNKS_FOLDER).mkdir()
    repository = RepositoryFolder(folder, fleet)
    keys = repository.keys.create(secret)
    repository.authorities.create(fleet, secret, now)
    repository.audit.append("init", fleet, {}, now=now)
    document = FleetDocument(fleet=fleet, deployments=(), audit=str(repository.audit.head()))
    repository.releases.create({}, keys, now)
    repository.fleet.create({desired.FLEET_DOCUMENT: desired.encode(document)}, keys, now)
    files.write(folder / CONFIG_FILE, f'fleet = "{fleet}"\n'.encode())


def opened(path: Path) -> RepositoryFolder:
    """Open the repository in a folder.

    Raises:
        UsageError: `repo-invalid`, when there is none, or its repo.toml is wrong.
    """
    try:
        config = tomllib.loads((path / CONFIG_FILE).read_text())
        fleet = names.require_name(str(config["fleet"]), "fleet")
    except (OSError, tomllib.TOMLDecodeError, KeyError, EdgemlError) as error:
        hint = f"make one with `edgeml repo init {path}`, or name another folder with --repo"
        raise UsageError("repo-invalid", f"{path} is not an edgeml repository", hint) from error
    url = config.get("chunks", "")
    if url and not (isinstance(url, str) and CHUNKS_URL.fullmatch(url)):
        hint = "write s3://BUCKET/PREFIX, without credentials: they come from the environment"
        raise UsageError("repo-invalid", "`chunks` in repo.toml isn't of the form s3://BUCKET/PREFIX", hint)
    return RepositoryFolder(path, fleet, {**trust.EXPIRY, **_lifetimes(config.get("days", {}))}, url)


def _lifetimes(days: object) -> dict[str, timedelta]:
    """Read [days] of repo.toml.

    Raises:
        UsageError: `repo-invalid`.
    """
    if not isinstance(days, dict) or not days.keys() <= trust.EXPIRY.keys():
        raise UsageError("repo-invalid", "[days] in repo.toml names another role", f"use {', '.join(trust.EXPIRY)}")
    if not all(type(value) is int and 0 < value <= LIFETIME_MAX_DAYS for value in days.values()):
        hint = f"use whole numbers of 1 to {LIFETIME_MAX_DAYS}"
        raise UsageError("repo-invalid", "a value of [days] in repo.toml is no number of days", hint)
    return {role: timedelta(days=value) for role, value in days.items()}


def utc_now() -> datetime:
    """Read the host's clock."""
    return datetime.now(UTC)
