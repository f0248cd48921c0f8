"""Conditions that were answered, and notices that wait to be sent, in the fleet's database.

Both change in one transaction: a host that dies sends a notice later, and raises none a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import CONDITION, NOTICE

#: Where a notice goes; each waits for every target by itself.
Target = Literal["mqtt", "webhook"]
#: Notices that wait for one target: the oldest beyond are dropped.
WAITING_MAX: Final = 1000
#: The key of the row which says that conditions have been recorded.
_BEGUN: Final = ""
_KEYS_AT_ONCE: Final = 10_000


class Records:
    """The tables of conditions and notices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self) -> dict[str, str] | None:
        """Return the value of each recorded condition by key; None before the first recording.

        Raises:
            DeviceError: `store-failed`; so does each method.
        """
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(CONDITION.c.key, CONDITION.c.value)).all()
        found = {row.key: row.value for row in rows}
        return None if found.pop(_BEGUN, None) is None else found

    def record(
        self,
        raised: Mapping[str, str],
        cleared: Iterable[str],
        notices: Iterable[tuple[Target, bytes]],
        check: Callable[[Connection], None],
    ) -> int:
        """Record conditions, and let notices wait.

        Args:
            raised: the values of new conditions, by key.
            cleared: keys of conditions that no longer hold.
            notices: encoded, each with its target.
            check: raises where this host no longer leads.

        Returns:
            The number of older notices that were dropped.
        """
        rows = [{"key": key, "value": value} for key, value in {_BEGUN: "begun", **raised}.items()]
        gone, new = list(cleared), list(notices)
        with self._database.writing() as connection:
            check(connection)
            connection.execute(self._database.upsert(CONDITION), rows)
            for start in range(0, len(gone), _KEYS_AT_ONCE):
                some = gone[start : start + _KEYS_AT_ONCE]
                connection.execute(sa.delete(CONDITION).where(CONDITION.c.key.in_(some)))
            number = connection.scalar(sa.select(sa.func.max(NOTICE.c.number))) or 0
            for at, (target, body) in enumerate(new, number + 1):
                connection.execute(sa.insert(NOTICE).values(number=at, target=target, body=body))
            return sum(_trim(connection, target) for target in {target for target, _ in new})

    def next(self, target: Target) -> tuple[int, bytes] | None:
        """Return the oldest notice that waits for a target, with its number."""
        query = sa.select(NOTICE.c.number, NOTICE.c.body).where(NOTICE.c.target == target)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(NOTICE.c.number).limit(1)).first()
        return None if row is None else (row.number, row.body)

    def remove(self, number: int) -> None:
        """Remove a notice: it was sent, or never can be."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(NOTICE).where(NOTICE.c.number == number))


def _trim(connection: Connection, target: Target) -> int:
    """Delete the oldest notices beyond the limit of one target, and return their number."""
    newest = sa.select(NOTICE.c.number).where(NOTICE.c.target == target).order_by(NOTICE.c.number.desc())
    last = connection.scalar(newest.offset(WAITING_MAX).limit(1))
    if last is None:
        return 0
    return connection.execute(sa.delete(NOTICE).where(NOTICE.c.target == target, NOTICE.c.number <= last)).rowcount
