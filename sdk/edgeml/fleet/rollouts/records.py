"""The rollouts in the fleet's database."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import ROLLOUT
from edgeml.fleet.rollouts.plan import Rollout
from edgeml_core import decoding
from edgeml_core.errors import UsageError

#: Rollouts that are kept: the oldest ended ones beyond are deleted.
KEPT_MAX: Final = 200


class Rollouts:
    """The table of rollouts. Its callers hold the repository's lock while they change one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, *, is_open: bool | None = None) -> list[Rollout]:
        """Return the rollouts, the newest first; only open or ended ones, if `is_open` names them.

        Raises:
            DeviceError: `store-failed`; so does each method.
        """
        query = sa.select(ROLLOUT.c.rollout).order_by(ROLLOUT.c.number.desc())
        if is_open is not None:
            query = query.where(ROLLOUT.c.is_open.is_(is_open))
        with self._database.reading() as connection:
            return [decoding.from_json(row, Rollout) for row in connection.scalars(query)]

    def find(self, name: str) -> Rollout:
        """Return the rollout with this id, or the newest one of the model with this name.

        Raises:
            UsageError: `usage`, when there is none; the hint names close ids.
        """
        rollouts = self.all()
        for it in rollouts:
            if name in {it.id, it.deployment.name}:
                return it
        close = difflib.get_close_matches(name, [it.id for it in rollouts]) or [it.id for it in rollouts[:3]]
        hint = f"name one of {', '.join(close)}" if close else "begin one with `edgeml fleet deploy --waves`"
        raise UsageError("usage", f"there is no rollout {name!r}", hint)

    def add(self, rollout: Rollout) -> None:
        """Record a new rollout, and delete the oldest ended ones beyond `KEPT_MAX`."""
        with self._database.writing() as connection:
            newest = connection.scalar(sa.select(sa.func.max(ROLLOUT.c.number))) or 0
            connection.execute(sa.insert(ROLLOUT).values(id=rollout.id, number=newest + 1, **_columns(rollout)))
            ended = sa.select(ROLLOUT.c.id).where(ROLLOUT.c.is_open.is_(False)).order_by(ROLLOUT.c.number.desc())
            for old in list(connection.scalars(ended))[KEPT_MAX:]:
                connection.execute(sa.delete(ROLLOUT).where(ROLLOUT.c.id == old))

    def change(
        self,
        rollout: Rollout,
        check: Callable[[Connection], None] | None = None,
        log: Callable[[], object] = lambda: None,
    ) -> None:
        """Record how far a rollout is.

        Args:
            rollout: as it is from now on.
            check: lets the transaction fail where this host no longer leads.
            log: writes to the audit log, once the database takes the change and before it counts.
        """
        with self._database.writing() as connection:
            if check is not None:
                check(connection)
            connection.execute(sa.update(ROLLOUT).where(ROLLOUT.c.id == rollout.id).values(_columns(rollout)))
            log()


def _columns(rollout: Rollout) -> dict[str, object]:
    return {"is_open": rollout.is_open, "rollout": msgspec.json.encode(rollout)}
