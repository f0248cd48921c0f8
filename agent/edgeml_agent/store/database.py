"""What the agent must remember across restarts and power cuts: SQLite, every change synced before it counts.

For each model its update's state, the release that serves and the one before; refused digests; the session counter;
whether the last run ended cleanly. The releases' files are `edgeml_agent.store.releases`'s business.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.lifecycle import Event, State, advance

DATABASE_NAME: Final = "agent.sqlite"
#: Another process, such as `edgeml-agent rollback`, holds the database for milliseconds.
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


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One model: where its update stands, and what serves. Releases are named by their manifest's digest.

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
        """Whether the active release has yet to prove itself: `activated_at` is 0 once it has."""
        return self.activated_at != 0


class Store:
    """The database in one folder. Any thread may call; another process may write at the same time.

    Raises:
        DeviceError: `store-failed`, from every method, when the database can't be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        with _translated():
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                folder / DATABASE_NAME, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock, _translated():
            self._database.close()

    def records(self) -> dict[str, ModelRecord]:
        """All models by name."""
        with self._reading() as database:
            rows = database.execute("SELECT * FROM model ORDER BY name").fetchall()
        return {row["name"]: msgspec.convert(dict(row), ModelRecord) for row in rows}

    def record(self, name: str) -> ModelRecord:
        """One model; a new one is idle."""
        return self.records().get(name) or ModelRecord(name=name)

    def save(self, record: ModelRecord) -> None:
        """Remember where an update stands. What serves is not changed by it."""
        with self._transaction() as database:
            database.execute(_SAVE, msgspec.structs.asdict(record))

    def activate(self, record: ModelRecord, now: float) -> None:
        """As `save`, and from now on `record.wanted` serves; what served before is kept as the previous release."""
        with self._transaction() as database:
            database.execute(_SAVE, msgspec.structs.asdict(record))
            database.execute(_ACTIVATE, {"name": record.name, "wanted": record.wanted, "now": now})

    def roll_back(self, name: str, code: str, message: str) -> ModelRecord:
        """Let the previous release serve again, and remember why; the other is forgotten.

        Raises:
            UsageError: `model-unknown`, when there is no such model; `usage`, when it has no previous release.
        """
        with self._transaction() as database:
            row = database.execute("SELECT * FROM model WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise UsageError("model-unknown", f"no model {name!r} is here", "`edgeml-agent models` lists them")
            record = msgspec.convert(dict(row), ModelRecord)
            if not record.previous:
                raise UsageError("usage", f"{name} has no version before the active one", "deploy another version")
            # An update under way has another release in mind: it goes on.
            state = advance(record.state, Event.DEVICE_FAILED) if record.state is State.ACTIVE else record.state
            database.execute(
                "UPDATE model SET state = ?, code = ?, message = ?, active = previous, previous = '',"
                " activated_at = 0, unclean_restarts = 0 WHERE name = ?",
                (state, code, message, name),
            )
        return self.record(name)

    def end_probation(self, name: str, activated_at: float) -> None:
        """The release that was activated then has proved itself; another one that came since has not."""
        with self._transaction() as database:
            database.execute(
                "UPDATE model SET activated_at = 0, unclean_restarts = 0 WHERE name = ? AND activated_at = ?",
                (name, activated_at),
            )

    def count_unclean(self, name: str) -> int:
        """One more unclean restart since the model's activation; how many there are now."""
        with self._transaction() as database:
            database.execute("UPDATE model SET unclean_restarts = unclean_restarts + 1 WHERE name = ?", (name,))
        return self.record(name).unclean_restarts

    def refuse(self, digest: str, code: str, message: str) -> None:
        """Never take this release again."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", (digest, code, message))

    def refusal(self, digest: str) -> tuple[str, str] | None:
        """The code and message with which a release was refused, if it was."""
        with self._reading() as database:
            row = database.execute("SELECT code, message FROM refused WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else (row["code"], row["message"])

    def next_session(self) -> int:
        """The number of a new connection: one more than any before it."""
        return self._add("session", 1)

    def session(self) -> int:
        """The number of the newest connection; 0 before the first."""
        with self._reading() as database:
            row = database.execute("SELECT value FROM counter WHERE name = 'session'").fetchone()
        return 0 if row is None else int(row["value"])

    def begin_run(self) -> bool:
        """Remember that the agent runs; whether the run before ended cleanly."""
        return self._add("running", 1) == 1

    def end_run(self) -> None:
        """Remember that the agent ended cleanly."""
        with self._transaction() as database:
            database.execute("DELETE FROM counter WHERE name = 'running'")

    def changes(self) -> int:
        """A number that changes when another process has written."""
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
        with self._lock, _translated():
            yield self._database

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translated(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        hint = "check that [store] dir is on a writable disk with room"
        raise DeviceError("store-failed", f"the store's database failed: {error}", hint) from error
