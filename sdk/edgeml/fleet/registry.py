"""The registry: the last state and reports of each device, in SQLite. It survives restarts of the host.

The caller records messages of enrolled devices only. One thread at a time may call.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.errors import DeviceError
from edgeml_core.messages import DeviceState, Report

#: The registry's file in the repository's folder; `--database` names another.
DATABASE_FILE: Final = "fleet.db"
#: SQLite's name for a database that ends with the program.
MEMORY: Final = Path(":memory:")
#: Seconds to wait for another process that writes: a transaction of 256 messages takes far less.
BUSY_TIMEOUT_S: Final = 10.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS device (id TEXT PRIMARY KEY, seen_s REAL NOT NULL, state BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS report (
    device TEXT NOT NULL, deployment TEXT NOT NULL, seen_s REAL NOT NULL, report BLOB NOT NULL,
    PRIMARY KEY (deployment, device)
) STRICT;
CREATE TABLE IF NOT EXISTS host (session TEXT NOT NULL) STRICT;
"""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A device's last state, and its time of arrival in seconds since 1970."""

    state: DeviceState
    seen_s: float


class DeviceMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a device, and its time of arrival in seconds since 1970."""

    device: str
    message: DeviceState | Report
    seen_s: float


class Registry:
    """The database in one file."""

    def __init__(self, path: Path) -> None:
        with _translated(path):
            self._path = path
            self._database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            # States that a power cut takes are retained by the broker, which sends them again.
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def session(self) -> str:
        """Return the name of this registry's session with the broker, which keeps messages for an absent host."""
        with _translated(self._path):
            row = self._database.execute("SELECT session FROM host").fetchone()
            if row:
                return str(row[0])
            name = secrets.token_hex(8)
            with self._transaction():
                self._database.execute("INSERT INTO host VALUES (?)", (name,))
        return name

    def record(self, received: Iterable[DeviceMessage]) -> None:
        """Record messages in one transaction.

        A late will, of an older session than the last birth, is ignored. A birth always counts, even with an older
        session: a device that lost its store counts its sessions from 1 again.
        """
        with _translated(self._path), self._transaction():
            for it in received:
                if isinstance(it.message, Report):
                    self._record_report(it.device, it.message, it.seen_s)
                elif not self._is_late_will(it.device, it.message):
                    self._record_state(it.device, it.message, it.seen_s)

    def keep_reports(self, deployments: Iterable[str]) -> None:
        """Forget the reports about all other deployments."""
        kept = set(deployments)
        with _translated(self._path), self._transaction():
            known = [it for (it,) in self._database.execute("SELECT DISTINCT deployment FROM report")]
            for deployment in set(known) - kept:
                self._database.execute("DELETE FROM report WHERE deployment = ?", (deployment,))

    def devices(self) -> dict[str, Seen]:
        """Return the last state of each device."""
        with _translated(self._path):
            rows = self._database.execute("SELECT id, seen_s, state FROM device ORDER BY id").fetchall()
        return {
            name: Seen(state=msgspec.json.decode(state, type=DeviceState), seen_s=seen) for name, seen, state in rows
        }

    def reports(self, deployment: str) -> dict[str, Report]:
        """Return the last report of each device about one deployment."""
        with _translated(self._path):
            query = "SELECT device, report FROM report WHERE deployment = ? ORDER BY device"
            rows = self._database.execute(query, (deployment,)).fetchall()
        return {device: msgspec.json.decode(report, type=Report) for device, report in rows}

    def _is_late_will(self, device: str, state: DeviceState) -> bool:
        row = self._database.execute("SELECT state FROM device WHERE id = ?", (device,)).fetchone()
        known_session = msgspec.json.decode(row[0], type=DeviceState).session if row else state.session
        return not state.online and state.session < known_session

    def _record_state(self, device: str, state: DeviceState, seen_s: float) -> None:
        statement = "INSERT OR REPLACE INTO device (id, seen_s, state) VALUES (?, ?, ?)"
        self._database.execute(statement, (device, seen_s, msgspec.json.encode(state)))

    def _record_report(self, device: str, report: Report, seen_s: float) -> None:
        statement = "INSERT OR REPLACE INTO report (device, deployment, seen_s, report) VALUES (?, ?, ?, ?)"
        self._database.execute(statement, (device, report.deployment, seen_s, msgspec.json.encode(report)))
        self._database.execute("UPDATE device SET seen_s = ? WHERE id = ?", (seen_s, device))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite itself rolls back where the disk is full
                self._database.execute("ROLLBACK")
            raise


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        hint = "move the file away: a new one fills itself as the devices report"
        raise DeviceError("store-failed", f"the fleet's database {path} can't be used: {error}", hint) from error
