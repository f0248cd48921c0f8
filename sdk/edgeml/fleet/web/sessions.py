"""Sessions of browsers: a random cookie for each login, bounded in number and age, in the fleet's database.

A login always makes a new cookie, also for a browser that sent one (session fixation). The database has only the
cookie's SHA-256. The role is the account's at the time of each request.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import SESSION
from edgeml.fleet.web import accounts
from edgeml.fleet.web.accounts import Verified
from edgeml_core.errors import DeviceError

#: Seconds after the login, and after the last use, at which a session ends: a shift, and a break.
AGE_MAX_S: Final = 12 * 3600.0
IDLE_MAX_S: Final = 3600.0
#: Seconds between two writes of the last use's time.
SEEN_EVERY_S: Final = 60.0
#: Sessions of one account: its oldest one ends for a new one.
PER_ACCOUNT_MAX: Final = 10


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session: its account's name, and the token that its forms send."""

    id: str
    account: str
    csrf: str
    began_s: float
    seen_s: float


class Sessions:
    """The sessions in the database. Each method raises `DeviceError` (`store-failed`) when it can't be used.

    Args:
        database: the fleet's.
        clock: the time in seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def begin(self, verified: Verified, *, replacing: str = "") -> str | None:
        """Begin a session, and return its new cookie; None if the account was reset or removed meanwhile.

        Args:
            verified: the account.
            replacing: the cookie that the browser had; that session ends.
        """
        cookie, account, now_s = secrets.token_urlsafe(32), verified.account.name, self._clock()
        row = {"id": _digest(cookie), "account": account, "csrf": secrets.token_urlsafe(32)}
        # A later reset or removal waits for the row, and ends this session, too; SQLite has one writer at a time.
        known = accounts.holding(verified).with_for_update(read=True)
        with self._database.writing() as connection:
            if connection.execute(known).first() is None:
                return None
            connection.execute(sa.delete(SESSION).where(SESSION.c.id == _digest(replacing)))
            self._end_old(connection, account, now_s)
            connection.execute(sa.insert(SESSION).values({**row, "began_s": now_s, "seen_s": now_s}))
        return cookie

    def find(self, cookie: str, *, is_use: bool = True) -> Session | None:
        """Return the session of a cookie; None if there is none, or it has ended by its age.

        Args:
            cookie: as the browser sent it.
            is_use: whether it lasts longer for that.
        """
        now_s = self._clock()
        with self._database.reading() as connection:
            row = connection.execute(sa.select(SESSION).where(SESSION.c.id == _digest(cookie))).first()
        if row is None or now_s - row.began_s > AGE_MAX_S or now_s - row.seen_s > IDLE_MAX_S:
            return None
        found = Session(id=row.id, account=row.account, csrf=row.csrf, began_s=row.began_s, seen_s=row.seen_s)
        # Pages are there when the disk is full, too: they show it.
        if is_use and now_s - found.seen_s > SEEN_EVERY_S:
            with contextlib.suppress(DeviceError), self._database.writing() as connection:
                connection.execute(sa.update(SESSION).where(SESSION.c.id == found.id).values(seen_s=now_s))
        return found

    def end(self, cookie: str) -> None:
        """End the session of a cookie."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(SESSION).where(SESSION.c.id == _digest(cookie)))

    def _end_old(self, connection: Connection, account: str, now_s: float) -> None:
        aged = sa.or_(SESSION.c.began_s < now_s - AGE_MAX_S, SESSION.c.seen_s < now_s - IDLE_MAX_S)
        connection.execute(sa.delete(SESSION).where(aged))
        of_account = sa.select(SESSION.c.id).where(SESSION.c.account == account).order_by(SESSION.c.began_s.desc())
        beyond = list(connection.scalars(of_account))[PER_ACCOUNT_MAX - 1 :]
        connection.execute(sa.delete(SESSION).where(SESSION.c.id.in_(beyond)))


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
