"""The agent's database: SQLite, with every change synced to the disk before it takes effect.

It has each model's update state, active and previous release, refused digests, the session counter and the mark of a
running agent. The releases' files are in `edgeml_agent.store.releases`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core import decoding
from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.lifecycle import Event, State, advance

DATABASE_NAME: Final = "agent.sqlite"
#: Seconds to wait for the database: another process, such as `edgeml-agent rollback`, holds it for milliseconds.
BUSY_TIMEOUT_S: Final = 10.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS model (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, deployment TEXT NOT NULL DEFAULT '', version TEXT NOT NULL DEFAULT '',
    wanted TEXT NOT NULL DEFAULT '', code TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '',
    active TEXT NOT NULL DEFAULT '', previous TEXT NOT NULL DEFAULT '',
    activated_at REAL NOT NULL DEFAULT 0, unclean_restarts INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS refused (digest TEXT PRIMARY KEY, code TEXT NOT NULL, message TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""
_SAVE: Final = """
    INSERT INTO model (name, state, deployment, version, wanted, code, message)
    VALUES (:name, :state, :deployment, :version, :wanted, :code, :message)
    ON CONFLICT (name) DO UPDATE SET state = :state, deployment = :deployment, version = :version, wanted = :wanted,
    code = :code, message = :message
"""
_ACTIVATE: Final = """
    UPDATE model SET previous = CASE WHEN active = :wanted THEN previous ELSE active END, active = :wanted,
    activated_at = :now, unclean_restarts = 0 WHERE name = :name
"""
_REMOVE: Final = """
    UPDATE model SET active = '', previous = '', activated_at = 0, unclean_restarts = 0 WHERE name = :name
"""
_ROLL_BACK: Final = """
    UPDATE model SET state = :state, code = :code, message = :message,
    active = previous, previous = '', activated_at = 0, unclean_restarts = 0 WHERE name = :name
"""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One model: the state of its update, and the releases that serve. Releases are named by their manifest's digest.

    `deployment`, `version` and `wanted` are of the newest update; `code` and `message` say why it failed.
    """

    name: str
    state: State = State.IDLE
    deployment: str = ""
    version: str = ""
    wanted: str = ""
    code: str = ""
    message: str = ""
    active: str = ""
    previous: str = ""
    activated_at: float = 0.0
    unclean_restarts: int = 0

    @property
    def is_on_probation(self) -> bool:
        """Whether the active release is on probation: `activated_at` is 0 once that has ended."""
        return self.activated_at != 0


class Store:
    """The database in one folder. Any thread may call; another process may write at the same time.

    Raises:
        DeviceError: `store-failed`, from every method, when the database can't be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        #: Connections of this run where the disk takes no writes.
        self._sessions = 0
        path = folder / DATABASE_NAME
        with _translate_errors():
            self.is_read_only = path.exists() and _is_read_only(folder)
            if not self.is_read_only:
                folder.mkdir(parents=True, exist_ok=True)
            self._database = _connect_read_only(path) if self.is_read_only else _connect(path)
            self._database.row_factory = sqlite3.Row
            if not self.is_read_only:
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock, _translate_errors():
            self._database.close()

    def records(self) -> dict[str, ModelRecord]:
        """Return all models by name."""
        with self._reading() as database:
            rows = database.execute("SELECT * FROM model ORDER BY name").fetchall()
        return {row["name"]: decoding.convert(dict(row), ModelRecord) for row in rows}

    def record(self, name: str) -> ModelRecord:
        """Return one model; a new one is idle."""
        return self.records().get(name) or ModelRecord(name=name)

    def save(self, record: ModelRecord) -> None:
        """Store the state of an update. The active release stays."""
        with self._transaction() as database:
            database.execute(_SAVE, msgspec.structs.asdict(record))

    def activate(self, record: ModelRecord, now: float) -> None:
        """Store the state, make `record.wanted` the active release and the one before it the previous."""
        with self._transaction() as database:
            database.execute(_SAVE, msgspec.structs.asdict(record))
            database.execute(_ACTIVATE, {"name": record.name, "wanted": record.wanted, "now": now})

    def remove(self, record: ModelRecord) -> None:
        """Store the state of a removal: the model has no release any more."""
        with self._transaction() as database:
            database.execute(_SAVE, msgspec.structs.asdict(record))
            database.execute(_REMOVE, {"name": record.name})

    def roll_back(self, name: str, code: str, message: str) -> ModelRecord:
        """Make the previous release active again, with the reason; the other is forgotten.

        Raises:
            UsageError: `model-unknown`, when there is no such model; `usage`, when it has no previous release.
        """
        with self._transaction() as database:
            row = database.execute("SELECT * FROM model WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise UsageError(
                    "model-unknown", f"this device has no model {name!r}", "list them with `edgeml-agent models`"
                )
            record = decoding.convert(dict(row), ModelRecord)
            if not record.previous:
                raise UsageError("usage", f"{name} has no previous version", "deploy another version")
            # An update under way is for another release and goes on.
            state = advance(record.state, Event.DEVICE_FAILED) if record.state is State.ACTIVE else record.state
            values = {"name": name, "state": state, "code": code, "message": message}
            database.execute(_ROLL_BACK, values)
        return self.record(name)

    def end_probation(self, name: str, activated_at: float) -> None:
        """End the probation of the release activated at that time; a release activated since stays on probation."""
        with self._transaction() as database:
            database.execute(
                "UPDATE model SET activated_at = 0, unclean_restarts = 0 WHERE name = ? AND activated_at = ?",
                (name, activated_at),
            )

    def count_unclean(self, name: str) -> int:
        """Count an unclean restart since the model's activation, and return the count."""
        with self._transaction() as database:
            database.execute("UPDATE model SET unclean_restarts = unclean_restarts + 1 WHERE name = ?", (name,))
        return self.record(name).unclean_restarts

    def refuse(self, digest: str, code: str, message: str) -> None:
        """Record that a release is refused for good."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", (digest, code, message))

    def refusal(self, digest: str) -> tuple[str, str] | None:
        """Return the code and message of a release's refusal; None if it wasn't refused."""
        with self._reading() as database:
            row = database.execute("SELECT code, message FROM refused WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else (row["code"], row["message"])

    def next_session(self) -> int:
        """Count a new connection and return its number."""
        if self.is_read_only:
            self._sessions += 1
            return self.session() + self._sessions
        return self._add("session", 1)

    def session(self) -> int:
        """Return the number of the newest connection; 0 before the first."""
        with self._reading() as database:
            row = database.execute("SELECT value FROM counter WHERE name = 'session'").fetchone()
        return 0 if row is None else int(row["value"])

    def begin_run(self) -> bool:
        """Record that the agent runs, and return whether the run before ended cleanly."""
        return self._add("running", 1) == 1

    def end_run(self) -> None:
        """Record that the agent ended cleanly."""
        with self._transaction() as database:
            database.execute("DELETE FROM counter WHERE name = 'running'")

    def changes(self) -> int:
        """Return a number that changes when another process has written."""
        with self._reading() as database:
            return int(database.execute("PRAGMA data_version").fetchone()[0])

    def _add(self, name: str, amount: int) -> int:
        with self._transaction() as database:
            row = database.execute(
                "INSERT INTO counter VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
                " RETURNING value",
                (name, amount),
            ).fetchone()
        return int(row["value"])

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translate_errors():
            yield self._database

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translate_errors(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database


def _is_read_only(folder: Path) -> bool:
    """Whether the file system takes no writes: the kernel remounts an SD card so after an error of the card."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _connect(path: Path, mode: str = "rwc") -> sqlite3.Connection:
    name = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(name, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Open the database with the log of a killed agent; without one SQLite would have to make files beside it."""
    database = _connect(path, "ro")
    try:
        database.execute("SELECT 1 FROM model").fetchone()
    except sqlite3.OperationalError:
        database.close()
        return _connect(path, "ro&immutable=1")
    return database


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        hint = "check that [store] dir is on a writable disk with free space"
        raise DeviceError("store-failed", f"the store's database failed: {error}", hint) from error
