"""Bring the schema of a database to the revision that this edgeml knows, under a lock, one host at a time.

Alembic is imported only where a step is missing. A database of a later edgeml, and one from before the migrations, is
refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from edgeml_core.errors import DeviceError

#: The last step in `migrations/versions`.
HEAD: Final = "0004"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: PostgreSQL's number of the lock, as any program that migrates this schema takes it.
LOCK: Final = 0x65646765_6D6C0001


def is_current(connection: Connection) -> bool:
    """Return whether the schema has every step."""
    return _revision(connection) == HEAD


def migrate(connection: Connection, name: str) -> None:
    """Run the missing steps in the connection's transaction.

    Args:
        connection: in a transaction that writes.
        name: the database's name in messages.

    Raises:
        DeviceError: `store-failed`, when the schema is another edgeml's.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    found = _revision(connection)
    if found == HEAD:  # another host was faster
        return
    if found is None and sa.inspect(connection).get_table_names():
        hint = "move the database away: a new one fills itself as the devices report"
        raise DeviceError("store-failed", f"the database {name} has no schema of this edgeml", hint)
    _upgrade(connection, name, found)


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _upgrade(connection: Connection, name: str, found: str | None) -> None:
    from alembic import command  # noqa: PLC0415 - most starts need none
    from alembic.config import Config  # noqa: PLC0415 - as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        hint = "update edgeml on this machine"
        raise DeviceError("store-failed", f"the database {name} is at revision {found}, after {HEAD}", hint)
    command.upgrade(config, "head")
