"""The registry and the leadership in a real PostgreSQL, which several hosts share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from edgeml.fleet import leadership
from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import ACCOUNT, METADATA
from edgeml.fleet.leadership import Election, Part, hosts
from edgeml.fleet.registry import HISTORY_MAX, DeviceMessage, Registry, Seen
from edgeml.fleet.rules import answers
from edgeml.fleet.rules.answers import DEFAULT_RULES
from edgeml.fleet.rules.records import Records
from edgeml.fleet.web.accounts import Accounts, Role, hash_password
from edgeml.fleet.web.sessions import Sessions
from edgeml_core import chunks
from edgeml_core.drift import Drift
from edgeml_core.errors import DeviceError
from edgeml_core.messages import DeviceState, ModelState, Report
from support import postgresql
from support.waiting import until, until_async

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    """One server for the module."""
    with postgresql.postgresql() as running:
        yield running


@pytest.fixture
def database(server: postgresql.Server) -> Iterator[Database]:
    """The server's database, empty."""
    opened = Database(server.url)
    with opened.writing() as connection:
        for table in METADATA.sorted_tables:
            connection.execute(table.delete())
    yield opened
    opened.close()


def state(device: str, session: int = 1, *, online: bool = True, seen_s: float = 1.0) -> DeviceMessage:
    """A device's state."""
    return DeviceMessage(device=device, message=DeviceState(online=online, session=session), seen_s=seen_s)


def report(device: str, what: str, message: str = "") -> DeviceMessage:
    """A device's report about the deployment `d`."""
    sent = Report(deployment="d", name="line", version="1", state=what, session=1, message=message)
    return DeviceMessage(device=device, message=sent, seen_s=2.0)


def test_hosts_that_start_together_migrate_once(server: postgresql.Server):
    """All find the tables of the schema."""
    with Database(server.url).writing() as connection:
        METADATA.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
    databases = [Database(server.url) for _ in range(4)]
    failures: list[DeviceError] = []

    def use(opened: Database) -> None:
        try:
            with opened.reading() as connection:
                assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        except DeviceError as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(it,)) for it in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for opened in databases:
        opened.close()
    assert failures == []


def test_messages_are_recorded_as_in_a_file(database: Database, server: postgresql.Server):
    """The last of each device, a late will ignored, the history bounded, a character that no text may have left out."""
    registry = Registry(server.url)
    registry.record([state("pi-1", 2), state("pi-1", 1, online=False), report("pi-2", "fet\0ching", "\0")])
    for number in range(HISTORY_MAX + 5):
        registry.record([report("pi-1", f"state {number}"), state("pi-1", 2, online=number % 2 == 1, seen_s=number)])
    assert list(registry.devices()) == ["pi-1"]
    registry.record([state(name) for name in ("a-b", "aa", "B", "Pi-1")])
    assert list(registry.devices()) == ["B", "Pi-1", "a-b", "aa", "pi-1"]
    assert list(registry.devices(first="C", last="a-c")) == ["Pi-1", "a-b"]
    assert list(registry.reports("d", first="pi-1", last="pi-1")) == ["pi-1"]
    assert registry.reports("d")["pi-1"].state == f"state {HISTORY_MAX + 4}"
    assert len(registry.history("pi-1", "report")) == len(registry.history("pi-1", "state")) == HISTORY_MAX
    registry.keep_devices(["pi-2"])
    registry.keep_reports([])
    assert registry.devices() == registry.reports("d") == {}
    assert registry.history("pi-1", "report") == []
    registry.close()


def test_one_devices_text_stops_no_rules(database: Database):
    """PostgreSQL takes no NUL, and no long text in an index: the conditions of all devices are recorded together."""
    name = "".join(chunks.sha256(b"%d" % number) for number in range(200))
    model = ModelState(version="\0", state="active", drift=Drift(grade="major", observed=500))
    hostile = DeviceState(online=True, session=1, code="\0", models={name: model})
    failed = DeviceMessage(
        device="d",
        message=Report(deployment="d", name="line", version="1", state="rejected", session=1, code="\0"),
        seen_s=1.0,
    )
    holding = answers.conditions({"d": Seen(state=hostile, seen_s=1.0)}, [failed], (), DEFAULT_RULES, 2.0)
    given = answers.decide({}, holding, DEFAULT_RULES, ())
    assert len(given.raised) == 3
    Records(database).record(given.raised, (), (), lambda _: None)
    assert Records(database).known() == given.raised


def test_a_session_of_a_password_waits_for_its_reset(database: Database):
    """And doesn't begin then; a later reset ends a session that has begun."""
    accounts, sessions = Accounts(database), Sessions(database)
    accounts.add_user("anna", Role.VIEW, hash_password("long enough"))
    verified = accounts.by_password("anna", "long enough")
    begun = sessions.begin(verified)
    with ThreadPoolExecutor() as threads:
        with database.writing() as connection:
            connection.execute(sa.update(ACCOUNT).values(secret="another hash"))
            late = threads.submit(sessions.begin, verified)
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            until(lambda: connection.scalar(waiting) == 1, "the session that waits for the row")
        assert late.result() is None
    assert sessions.find(begun).account == "anna"
    accounts.set_password("anna", hash_password("another one"))
    assert sessions.find(begun) is None


def test_hosts_that_record_the_same_devices_wait_for_each_other(database: Database, server: postgresql.Server):
    """Neither fails, in whatever order the messages come."""
    devices = [f"pi-{number}" for number in range(50)]
    registries = [Registry(server.url), Registry(server.url)]
    failures: list[DeviceError] = []

    def record(registry: Registry, names: list[str]) -> None:
        try:
            for number in range(20):
                registry.record([state(name, number) for name in names])
        except DeviceError as error:
            failures.append(error)

    threads = [
        threading.Thread(target=record, args=(registries[0], devices)),
        threading.Thread(target=record, args=(registries[1], devices[::-1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(registries[0].devices()) == len(devices)
    for registry in registries:
        registry.close()


async def test_one_host_leads_and_another_takes_over(
    database: Database, server: postgresql.Server, monkeypatch: pytest.MonkeyPatch
):
    """In another term, with the same session. The first one's decisions count no more."""
    monkeypatch.setattr(leadership, "TURN_EVERY_S", 0.05)
    others = Database(server.url)
    first, second = Election(database, "first"), Election(others, "second")
    tasks = [asyncio.create_task(first.run())]
    await first.until(is_leader=True)
    tasks.append(asyncio.create_task(second.run()))
    await until_async(lambda: len(hosts(database)) == 2)
    assert (first.is_leader, second.is_leader) == (True, False)
    assert {it.name: it.is_leader for it in hosts(database)} == {"first": True, "second": False}
    tasks[0].cancel()
    await second.until(is_leader=True)
    assert second.session == first.session
    with pytest.raises(DeviceError, match="another host leads"), database.writing() as connection:
        first.check(connection)
    with others.writing() as connection:
        second.check(connection)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    others.close()


async def test_a_leader_that_loses_the_server_stops_leading(monkeypatch: pytest.MonkeyPatch):
    """Until the server is back: then some host leads again, and what was recorded is there."""
    monkeypatch.setattr(leadership, "TURN_EVERY_S", 0.05)
    with postgresql.postgresql() as own:
        registry = Registry(own.url)
        election = Election(registry.database)
        task = asyncio.create_task(election.run())
        await election.until(is_leader=True)
        await asyncio.to_thread(registry.record, [state("pi-1")])
        await asyncio.to_thread(own.kill)
        await election.until(is_leader=False)
        with pytest.raises(DeviceError):
            await asyncio.to_thread(registry.devices)
        await asyncio.to_thread(own.start)
        await election.until(is_leader=True)
        assert list(registry.devices()) == ["pi-1"]
        task.cancel()
        await asyncio.wait({task})
        registry.close()


def test_a_leader_that_is_killed_frees_its_lock(database: Database, server: postgresql.Server):
    """The server notices at once; nothing waits for a time to pass. The other one has all chunks then."""
    others = Database(server.url)
    first, second = Election(database, "first"), Election(others, "second")
    assert first._take_turn() == (True, Part(0, 1))
    assert second._take_turn() == (False, Part(1, 2))
    assert first._take_turn() == (True, Part(0, 2))
    # As the end of its process does.
    first._lock.connection.dbapi_connection.pgconn.finish()
    until(lambda: second._take_turn()[0], "the lock")
    assert second._take_turn() == (True, Part(0, 1))
    first._drop_lock()
    second._leave()
    others.close()
