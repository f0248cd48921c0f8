"""A connection to the fleet's database: SQLite in a file by default, PostgreSQL by its URL.

A password never appears in a name, a message or a log. Foreign exceptions become `DeviceError` (`store-failed`) here.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from edgeml.fleet.database import migrate
from edgeml_core.errors import DeviceError, UsageError
from edgeml_io import password_file as password_files

#: SQLite's name for a database that ends with the program.
MEMORY: Final = Path(":memory:")
#: Seconds to wait for another process that writes: a transaction of a thousand messages takes far less.
BUSY_TIMEOUT_S: Final = 10.0
#: Seconds for a connection to PostgreSQL, and for one statement there: a host must notice a server that hangs.
CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_S: Final = 30
#: Seconds without a sign of life after which either side of a connection gives it up, as a dead host's lock needs.
SILENCE_MAX_S: Final = 15
#: Connections to PostgreSQL of one host: the recorder, the leadership, the heartbeat and the dashboard's requests.
CONNECTIONS_MAX: Final = 8
_POSTGRESQL: Final = "postgresql"
_URL_HINT: Final = "write postgresql://[USER@]HOST[:PORT]/NAME, or the path of a file"


class Database:
    """The database, opened when it is first used and opened again after a failure. Each time its schema is completed.

    Args:
        where: the file's path, or `postgresql://...`.
        password_file: the file with the password of the URL's user.

    Raises:
        UsageError: `usage`, when the URL or the password's file can't be used; `extra-missing` without its driver.
    """

    def __init__(self, where: Path | str, *, password_file: Path | None = None) -> None:
        url = _url(where, password_file)
        #: Without a password.
        self.name: str = url.set(drivername=_POSTGRESQL).render_as_string() if _is_url(where) else str(where)
        #: Whether several hosts may use it at a time.
        self.is_shared = url.get_backend_name() == _POSTGRESQL
        self.engine = _postgresql_engine(url) if self.is_shared else _sqlite_engine(url)
        self._hint = (
            "check --database, its password, and that the server runs"
            if self.is_shared
            else "move the file away: a new one fills itself as the devices report"
        )
        #: Whether the schema is complete, as far as this process knows; threads complete it one at a time.
        self._is_ready = False
        self._preparing = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection in a transaction that only reads.

        Raises:
            DeviceError: `store-failed`, when the database can't be used; so do `writing` and `connected`.
        """
        with self.connected() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Lend a connection in a transaction; it is committed at the end, and rolled back after an exception."""
        with self.connected() as connection, _for_writing(connection).begin():
            yield connection

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Lend a connection without a transaction."""
        with self.translated():
            self._prepare()
            with self.engine.connect() as connection:
                yield connection

    def upsert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """Return the statement that inserts a row of a table, or replaces all columns of the row with its key."""
        insert = postgresql.insert(table) if self.is_shared else sqlite.insert(table)
        changed = {it.name: insert.excluded[it.name] for it in table.columns if not it.primary_key}
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)

    @property
    def now_s(self) -> sa.ColumnElement[float]:
        """The present time in seconds since 1970, by the database's clock where several hosts use it."""
        if self.is_shared:
            return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        return sa.cast((sa.func.julianday("now") - 2440587.5) * 86400.0, sa.Double)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise errors of the libraries as `DeviceError`."""
        try:
            yield
        except (SQLAlchemyError, msgspec.MsgspecError) as error:
            # The operator may replace the file, or the server by an empty one.
            self._is_ready = False
            self.engine.dispose()
            # SQLAlchemy's own text has the statement.
            cause = getattr(error, "orig", None) or error
            reason = str(cause).strip().partition("\n")[0]
            message = f"the fleet's database {self.name} can't be used: {reason}"
            raise DeviceError("store-failed", message, self._hint) from cause

    def _prepare(self) -> None:
        if self._is_ready:
            return
        with self._preparing:
            with self.engine.connect() as connection:
                is_current = migrate.is_current(connection)
            if not is_current:
                with self.engine.connect() as connection, _for_writing(connection).begin():
                    migrate.migrate(connection, self.name)
            self._is_ready = True


def _for_writing(connection: Connection) -> Connection:
    return connection.execution_options(writes=True)


def _is_url(where: Path | str) -> bool:
    return isinstance(where, str) and "://" in where


def _url(where: Path | str, password_file: Path | None) -> URL:
    if not _is_url(where):
        if password_file is not None:
            raise UsageError("usage", "a database in a file has no password", _URL_HINT)
        return URL.create("sqlite+pysqlite", database=str(where))
    try:
        url = make_url(str(where))
    except (ArgumentError, ValueError):
        # Not chained, and not repeated: the text may have a password.
        raise UsageError("usage", "the database's URL is malformed", _URL_HINT) from None
    if url.drivername != _POSTGRESQL:
        raise UsageError("usage", f"a database's URL begins with postgresql://, not {url.drivername}://", _URL_HINT)
    if not url.database:
        raise UsageError("usage", "the database's URL names no database", _URL_HINT)
    if "password" in url.query:
        hint = "name a file with --database-password-file"
        raise UsageError("usage", "the database's URL has a password among its options", hint)
    if password_file is not None:
        if url.username is None or url.password is not None:
            problem = "has a password beside the password file" if url.password is not None else "names no user"
            raise UsageError("usage", f"the database's URL {problem}", _URL_HINT)
        url = url.set(password=password_files.read(password_file))
    if importlib.util.find_spec("psycopg") is None:
        hint = "pip install 'edgeml-deploy[fleet-postgres]'"
        raise UsageError("extra-missing", "a registry in PostgreSQL needs psycopg, not installed here", hint)
    return url.set(drivername="postgresql+psycopg")


def _postgresql_engine(url: URL) -> Engine:
    return sa.create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_S,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "edgeml",
            "keepalives_idle": SILENCE_MAX_S // 3,
            "keepalives_interval": SILENCE_MAX_S // 3,
            "keepalives_count": 2,
            "tcp_user_timeout": SILENCE_MAX_S * 1000,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c tcp_user_timeout={SILENCE_MAX_S}s"
            f" -c tcp_keepalives_idle={SILENCE_MAX_S // 3} -c tcp_keepalives_interval={SILENCE_MAX_S // 3}"
            " -c tcp_keepalives_count=2",
        },
    )


def _sqlite_engine(url: URL) -> Engine:
    is_memory = url.database == str(MEMORY)
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        poolclass=StaticPool if is_memory else QueuePool,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:  # noqa: ANN401 - sqlite3's
        # The driver would begin transactions by itself, and too late.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        # A decision is on the disk before the document that follows it is signed; a report, before it is acknowledged.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes then fails where another one wrote meanwhile.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine
