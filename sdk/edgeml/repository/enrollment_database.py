"""Tokens, issued certificates, and the fleet's addresses: REPO/enrollment.db, in SQLite.

A token's use and a revocation are on the disk before anything follows from them. Callers decide what they mean, in
`tokens` and `client_certificates`; those that write hold the repository's lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edgeml.repository.certificates import Role
from edgeml_core import decoding
from edgeml_core.errors import UsageError

DATABASE_FILE: Final = "enrollment.db"
#: Seconds to wait for another process that writes.
BUSY_TIMEOUT_S: Final = 10.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS token (
    digest TEXT PRIMARY KEY, labels TEXT NOT NULL, groups TEXT NOT NULL, device TEXT NOT NULL, expires_s REAL NOT NULL,
    used_by TEXT NOT NULL DEFAULT '', used_key TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS certificate (
    serial TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, ends_s REAL NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0, disconnected INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS certificate_name ON certificate (name, revoked);
CREATE INDEX IF NOT EXISTS certificate_end ON certificate (ends_s);
CREATE INDEX IF NOT EXISTS certificate_connected ON certificate (name) WHERE revoked = 1 AND disconnected = 0;
CREATE INDEX IF NOT EXISTS certificate_block ON certificate (role, name) WHERE role <> 'device';
CREATE TABLE IF NOT EXISTS address (kind TEXT PRIMARY KEY, url TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS broker_folder (path TEXT PRIMARY KEY, settings TEXT NOT NULL) STRICT;
"""


class StoredToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is stored: the digest of its secret, and the terms under which it enrolls a device.

    `device` binds it to one id. `used_by` and `used_key` are empty until it is used.
    """

    digest: str
    labels: dict[str, str]
    groups: tuple[str, ...]
    device: str
    expires_s: float
    used_by: str = ""
    used_key: str = ""


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """One issued certificate."""

    serial: int
    name: str
    role: Role
    ends_s: float
    revoked: bool = False


class EnrollmentDatabase:
    """The database of one repository; it is opened for each call, so any thread may use it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / DATABASE_FILE

    def add_tokens(self, tokens: list[StoredToken], forgotten_s: float) -> None:
        """Store new tokens, and forget those that have expired before a time."""
        rows = [
            (it.digest, _json(it.labels), _json(it.groups), it.device, it.expires_s, it.used_by, it.used_key)
            for it in tokens
        ]
        with self._open() as database:
            database.execute("DELETE FROM token WHERE expires_s < ?", (forgotten_s,))
            database.executemany("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def token(self, digest: str) -> StoredToken | None:
        """Return a token by the digest of its secret."""
        with self._open() as database:
            row = database.execute("SELECT * FROM token WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else _token(row)

    def use_token(self, digest: str, device: str, key: str) -> None:
        """Record that a token was used by a device with a key."""
        with self._open() as database:
            database.execute("UPDATE token SET used_by = ?, used_key = ? WHERE digest = ?", (device, key, digest))

    def forget_tokens(self, device: str) -> None:
        """Remove the tokens that a device has used, and those that are bound to it."""
        with self._open() as database:
            database.execute("DELETE FROM token WHERE used_by = ? OR device = ?", (device, device))

    def add_certificate(self, issued: Issued, now_s: float) -> None:
        """Record an issued certificate, and forget the expired ones of its name that it replaces.

        Revoked ones and those of other names stay: a host whose clock was wrong once must not lose them.
        """
        with self._open() as database:
            forget = "DELETE FROM certificate WHERE ends_s < ? AND name = ? AND revoked = 0"
            database.execute(forget, (now_s, issued.name))
            values = (str(issued.serial), issued.name, issued.role, issued.ends_s)
            database.execute("INSERT INTO certificate (serial, name, role, ends_s) VALUES (?, ?, ?, ?)", values)

    def certificates(self, name: str) -> list[Issued]:
        """Return the certificates of one name, but expired ones that others have replaced."""
        with self._open() as database:
            query = "SELECT serial, name, role, ends_s, revoked FROM certificate WHERE name = ? ORDER BY ends_s"
            return [_issued(row) for row in database.execute(query, (name,))]

    def certificate(self, serial: int) -> Issued | None:
        """Return a certificate by its serial number."""
        with self._open() as database:
            query = "SELECT serial, name, role, ends_s, revoked FROM certificate WHERE serial = ?"
            row = database.execute(query, (str(serial),)).fetchone()
        return None if row is None else _issued(row)

    def revoke(self, name: str, *, ends_again: bool = False) -> list[int]:
        """Mark all certificates of a name as revoked, and return the serial numbers of all revoked ones.

        With `ends_again` the host ends the name's connections also if it has ended them before.
        """
        with self._open() as database:
            database.execute("UPDATE certificate SET revoked = 1 WHERE name = ?", (name,))
            if ends_again:
                database.execute("UPDATE certificate SET disconnected = 0 WHERE name = ?", (name,))
            return [int(it) for (it,) in database.execute("SELECT serial FROM certificate WHERE revoked = 1")]

    def names(self, *roles: Role) -> list[tuple[str, Role]]:
        """Return names and roles of the clients with these roles that have a certificate which isn't revoked."""
        marks = ", ".join("?" * len(roles))
        query = f"SELECT DISTINCT name, role FROM certificate WHERE revoked = 0 AND role IN ({marks}) ORDER BY name"  # noqa: S608
        with self._open() as database:
            return [(name, role) for name, role in database.execute(query, roles)]

    def revoked_names(self) -> list[str]:
        """Return the names all of whose certificates are revoked."""
        query = "SELECT name FROM certificate GROUP BY name HAVING min(revoked) = 1"
        with self._open() as database:
            return [name for (name,) in database.execute(query)]

    def connected_names(self) -> list[str]:
        """Return the names with a revoked certificate whose connections the host hasn't ended yet."""
        query = "SELECT DISTINCT name FROM certificate WHERE revoked = 1 AND disconnected = 0 ORDER BY name"
        with self._open() as database:
            return [name for (name,) in database.execute(query)]

    def set_disconnected(self, name: str) -> None:
        """Record that the host has ended the connections of a name's revoked certificates."""
        with self._open() as database:
            database.execute("UPDATE certificate SET disconnected = 1 WHERE revoked = 1 AND name = ?", (name,))

    def set_address(self, kind: str, url: str) -> None:
        """Remember an address of the fleet: `broker`, `enroll`, or the `database` of its rollouts."""
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO address VALUES (?, ?)", (kind, url))

    def address(self, kind: str) -> str | None:
        """Return a remembered address."""
        with self._open() as database:
            row = database.execute("SELECT url FROM address WHERE kind = ?", (kind,)).fetchone()
        return None if row is None else str(row[0])

    def set_broker_folder(self, path: str, settings: str) -> None:
        """Remember a folder with a broker's configuration, and its settings in JSON."""
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO broker_folder VALUES (?, ?)", (path, settings))

    def forget_broker_folder(self, path: str) -> None:
        """Remove a folder with a broker's configuration."""
        with self._open() as database:
            database.execute("DELETE FROM broker_folder WHERE path = ?", (path,))

    def broker_folders(self) -> dict[str, str]:
        """Return the folders with a broker's configuration, with their settings in JSON."""
        with self._open() as database:
            return dict(database.execute("SELECT path, settings FROM broker_folder ORDER BY path").fetchall())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which is committed and synced at the end."""
        try:
            database = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S)
            try:
                # With FULL, a power cut may bring the journal back, whose return undoes the transaction.
                database.execute("PRAGMA synchronous = EXTRA")
                database.executescript(_SCHEMA)
                with database:
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            hint = "check its owner and the space on its disk, or restore it from your copy of the repository"
            raise UsageError("repo-invalid", f"{self._path} can't be used: {error}", hint) from error


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _token(row: tuple[str, str, str, str, float, str, str]) -> StoredToken:
    digest, labels, groups, device, expires_s, used_by, used_key = row
    return StoredToken(
        digest=digest,
        labels=decoding.from_json(labels, dict[str, str]),
        groups=decoding.from_json(groups, tuple[str, ...]),
        device=device,
        expires_s=expires_s,
        used_by=used_by,
        used_key=used_key,
    )


def _issued(row: tuple[str, str, Role, float, int]) -> Issued:
    serial, name, role, ends_s, revoked = row
    return Issued(serial=int(serial), name=name, role=role, ends_s=ends_s, revoked=bool(revoked))
