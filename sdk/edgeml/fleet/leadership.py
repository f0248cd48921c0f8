"""Which of the hosts that share a database leads: one at a time signs, announces, records and steers rollouts.

In PostgreSQL the leader holds an advisory lock in a session of its own. The server frees it when that host dies, and
another one takes it within `TURN_EVERY_S`. A leader that hears nothing from the server for `LEASE_S` stops leading
before the server can free its lock. Each leadership is a term with a number: `check` lets a transaction fail that was
begun in an earlier one. Of a database in a file the only host leads, since a lock of the folder refuses others.

The hosts' signs of life are written here, too. Each host holds a lock of its own, by which the others see that it
lives. The hosts that live divide the chunks among each other, each by its place in the order of their names.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import zlib
from collections.abc import Iterable
from typing import Final, NoReturn, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import HOST, LEADER
from edgeml_core.errors import DeviceError

#: Seconds between two turns: attempts to lead, or checks of the lock; each is a sign of life.
TURN_EVERY_S: Final = 3.0
#: Seconds for a turn of the leader, below the time after which the server gives up a silent connection.
LEASE_S: Final = 6.0
#: Seconds after which a host without a sign of life counts as gone.
GONE_AFTER_S: Final = 15.0
#: Seconds after which its row is deleted.
FORGOTTEN_AFTER_S: Final = 24 * 3600.0
#: PostgreSQL's number of the leader's lock.
LOCK: Final = 0x65646765_6D6C0002
#: The first half of the number of each host's own lock.
HOSTS_LOCK: Final = 0x65646765
#: The second half has 31 bits: PostgreSQL takes no larger ones.
_HOST_LOCK_MAX: Final = 1 << 31
_ROW: Final = 1


class Leadership(Protocol):
    """The questions of a part of the service about its host's leadership."""

    @property
    def is_leader(self) -> bool:
        """Whether this host leads now."""
        ...

    async def until(self, *, is_leader: bool) -> None:
        """Return when this host leads, or doesn't lead any more."""
        ...

    def check(self, connection: Connection) -> None:
        """Let a transaction that writes go on in this host's term only; no other term begins before its end.

        Raises:
            DeviceError: `not-leader`, when another term has begun, or this host doesn't lead.
        """
        ...


class ServingHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host that serves, and the seconds since its last sign of life."""

    name: str
    is_leader: bool
    age_s: float


class Part(msgspec.Struct, frozen=True):
    """One host's part of the chunks: of `count` parts that with number `index`."""

    index: int = 0
    count: int = 1

    def of(self, keys: Iterable[str]) -> list[str]:
        """Return the wire keys whose chunks belong to this part."""
        return [key for key in keys if zlib.crc32(key.partition("/")[0].encode()) % self.count == self.index]


class Election:
    """This host's part in the choice of a leader.

    Args:
        database: what the hosts share.
        name: this host's, for the operator; by default the machine's, with an end of its own for each start.
    """

    def __init__(self, database: Database, name: str = "") -> None:
        self.name = name or f"{socket.gethostname()}-{secrets.token_hex(3)}"
        #: The name of the leader's session with the broker, which keeps messages while no host is there.
        self.session = ""
        #: The chunks that this host sends.
        self.part = Part()
        self._database = database
        self._term = 0
        self._number = secrets.randbelow(_HOST_LOCK_MAX)
        self._lock: Connection | None = None
        self._turn: asyncio.Future[tuple[bool, Part]] | None = None
        self._leads = asyncio.Event()
        self._follows = asyncio.Event()
        self._follows.set()

    @property
    def is_leader(self) -> bool:
        """See `Leadership`."""
        return self._leads.is_set()

    async def until(self, *, is_leader: bool) -> None:
        """See `Leadership`."""
        await (self._leads if is_leader else self._follows).wait()

    def check(self, connection: Connection) -> None:
        """See `Leadership`."""
        # The share lock lets a new term wait until this transaction ends.
        query = sa.select(LEADER.c.term).where(LEADER.c.id == _ROW).with_for_update(read=True)
        if not self.is_leader or connection.execute(query).scalar() != self._term:
            raise DeviceError("not-leader", "another host leads the fleet now", "let that host decide")

    async def run(self) -> NoReturn:
        """Take turns until cancelled; the lock and the sign of life end then."""
        try:
            while True:
                await self.turn()
                await asyncio.sleep(TURN_EVERY_S)
        finally:
            self._set(is_leader=False)
            if self._turn is not None:
                await asyncio.wait({self._turn})
            await asyncio.to_thread(self._leave)

    async def turn(self) -> None:
        """Try to lead, or check that this host still does; a database that fails leaves only its sole host leading."""
        if self._turn is None:
            self._turn = asyncio.ensure_future(asyncio.to_thread(self._take_turn))
        await asyncio.wait({self._turn}, timeout=LEASE_S)
        if not self._turn.done():
            self._set(is_leader=self.is_leader and not self._database.is_shared)
            return
        turn, self._turn = self._turn, None
        try:
            is_leader, self.part = turn.result()
            self._set(is_leader=is_leader)
        except DeviceError:
            self._set(is_leader=not self._database.is_shared)

    def _set(self, *, is_leader: bool) -> None:
        now, before = (self._leads, self._follows) if is_leader else (self._follows, self._leads)
        before.clear()
        now.set()

    def _take_turn(self) -> tuple[bool, Part]:
        is_leader = not self._database.is_shared or self._holds_lock()
        if is_leader and not self._has_term():
            self._begin_term()
        with self._database.writing() as connection:
            row = {"seen_s": self._database.now_s, "is_leader": is_leader, "name": self.name, "lock": self._number}
            connection.execute(self._database.upsert(HOST).values(row))
            old = HOST.c.seen_s < self._database.now_s - FORGOTTEN_AFTER_S
            connection.execute(sa.delete(HOST).where(old))
            living = self._living(connection) if self._database.is_shared else [self.name]
        return is_leader, Part(living.index(self.name), len(living))

    def _living(self, connection: Connection) -> list[str]:
        """Return the names of the hosts that hold their locks, in order."""
        held = sa.text(
            "SELECT CAST(objid AS bigint) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
            "WHERE datname = current_database() AND locktype = 'advisory' AND granted "
            # Locks with two numbers, as opposed to the leader's with one.
            "AND classid = :hosts AND objsubid = 2"
        )
        numbers = connection.scalars(held, {"hosts": HOSTS_LOCK}).all()
        return sorted({self.name, *connection.scalars(sa.select(HOST.c.name).where(HOST.c.lock.in_(numbers)))})

    def _holds_lock(self) -> bool:
        try:
            with self._database.translated():
                if self._lock is None:
                    self._term = 0
                    self._lock = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                    self._lock.execute(sa.select(sa.func.pg_advisory_lock(HOSTS_LOCK, self._number)))
                if self._term:
                    return self._lock.execute(sa.select(1)).scalar() == 1
                return bool(self._lock.execute(sa.select(sa.func.pg_try_advisory_lock(LOCK))).scalar())
        except BaseException:
            self._drop_lock()
            raise

    def _has_term(self) -> bool:
        """Return whether this host's term is the present one: an operator may have put a new file in its place."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(LEADER.c.term).where(LEADER.c.id == _ROW)) == self._term

    def _begin_term(self) -> None:
        with self._database.writing() as connection:
            row = connection.execute(sa.select(LEADER).where(LEADER.c.id == _ROW).with_for_update()).one_or_none()
            term, session = (row.term + 1, row.session) if row else (1, self.session or secrets.token_hex(8))
            connection.execute(self._database.upsert(LEADER).values(id=_ROW, term=term, session=session))
        self._term, self.session = term, session

    def _drop_lock(self) -> None:
        lock, self._lock, self._term = self._lock, None, 0
        if lock is not None:
            lock.invalidate()
            lock.close()

    def _leave(self) -> None:
        self._drop_lock()
        try:
            with self._database.writing() as connection:
                connection.execute(sa.delete(HOST).where(HOST.c.name == self.name))
        except DeviceError:
            return


def hosts(database: Database) -> list[ServingHost]:
    """Return the hosts that have given a sign of life lately, by name.

    Raises:
        DeviceError: `store-failed`.
    """
    age_s = database.now_s - HOST.c.seen_s
    query = sa.select(HOST.c.name, HOST.c.is_leader, age_s.label("age_s")).where(age_s <= GONE_AFTER_S)
    with database.reading() as connection:
        rows = connection.execute(query.order_by(HOST.c.name))
        return [ServingHost(name=it.name, is_leader=it.is_leader, age_s=max(0.0, it.age_s)) for it in rows]
