"""The fleet's database: its addresses, its migrations, its errors."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgeml.fleet.database import migrate
from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import DEVICE, METADATA
from edgeml_core.errors import DeviceError, UsageError

FOLDER = Path(migrate.__file__).parent / "migrations"


def test_the_migrations_make_the_tables_of_the_schema(tmp_path: Path):
    """And the last of them is the one that the code knows."""
    database = Database(tmp_path / "fleet.db")
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    assert ScriptDirectory(str(FOLDER)).get_heads() == [migrate.HEAD]
    database.close()


def test_several_openers_migrate_once(tmp_path: Path):
    """The lock of the database lets the others find it done."""
    databases = [Database(tmp_path / "fleet.db") for _ in range(4)]
    failures: list[DeviceError] = []

    def use(database: Database) -> None:
        try:
            with database.writing():
                pass
        except DeviceError as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in databases:
        database.close()
    assert not failures


def test_a_database_of_another_time_is_refused(tmp_path: Path):
    """One without migrations, as before they began, and one of a later edgeml; neither is changed."""
    for name, statement in (
        ("old", "CREATE TABLE device (id TEXT PRIMARY KEY)"),
        ("later", "CREATE TABLE alembic_version AS SELECT '9999' AS version_num"),
    ):
        connection = sqlite3.connect(tmp_path / name)
        connection.execute(statement)
        connection.close()
        database = Database(tmp_path / name)
        with pytest.raises(DeviceError) as caught, database.reading():
            pass
        assert caught.value.code == "store-failed"
        assert "revision" in str(caught.value) or "schema" in str(caught.value)
        database.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path):
    """Its rows are rolled back."""
    database = Database(tmp_path / "fleet.db")
    row = {"id": "pi-1", "seen_s": 1.0, "state": None, "states": 0, "reports": 0}

    def fail() -> None:
        with database.writing() as connection:
            connection.execute(database.upsert(DEVICE).values(row))
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    with database.reading() as connection:
        assert connection.execute(DEVICE.select()).all() == []
    database.close()


def test_a_file_that_is_replaced_is_opened_again(tmp_path: Path):
    """An operator moves a damaged one away; the host needs no restart."""
    path = tmp_path / "fleet.db"
    path.write_bytes(b"not a database" * 100)
    database = Database(path)
    with pytest.raises(DeviceError), database.reading():
        pass
    path.unlink()
    with database.reading() as connection:
        assert connection.execute(DEVICE.select()).all() == []
    database.close()


def test_a_transaction_is_synced_when_it_ends(tmp_path: Path):
    """A power cut that took a rollout's abort would sign its deployment again: the document was synced."""
    database = Database(tmp_path / "fleet.db")
    with database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "FULL: with a log, each commit"
    database.close()


def test_a_password_is_never_named(tmp_path: Path):
    """Neither in the database's name, nor in an error's message, cause or hint."""
    (tmp_path / "password").write_text("hush-hush\n")
    for database in (
        Database("postgresql://me:hush-hush@127.0.0.1:1/fleet"),
        Database("postgresql://me@127.0.0.1:1/fleet", password_file=tmp_path / "password"),
    ):
        assert database.engine.url.password == "hush-hush"
        assert database.name == "postgresql://me:***@127.0.0.1:1/fleet"
        with pytest.raises(DeviceError) as caught, database.reading():
            pass
        error = caught.value
        assert error.code == "store-failed"
        assert "hush" not in f"{database.name} {error.message} {error.hint} {error.__cause__} {error.__context__}"


@pytest.mark.parametrize(
    "url",
    [
        "postgres://host/fleet",
        "mysql://me:hush@host/fleet",
        "postgresql://host",
        "postgresql://me:hush@host:port/fleet",
        "postgresql://me@host/fleet?password=hush",
        "sqlite:///fleet.db",
    ],
)
def test_a_wrong_address_is_refused(url: str):
    """With the form that is right, and without its password."""
    with pytest.raises(UsageError) as caught:
        Database(url)
    assert caught.value.code == "usage"
    assert "hush" not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"


def test_a_password_file_needs_a_user(tmp_path: Path):
    """And no other password; a file of SQLite has none."""
    (tmp_path / "password").write_text("hush\n")
    for where in ("postgresql://host/fleet", "postgresql://me:other@host/fleet", tmp_path / "fleet.db"):
        with pytest.raises(UsageError) as caught:
            Database(where, password_file=tmp_path / "password")
        assert "hush" not in caught.value.message
