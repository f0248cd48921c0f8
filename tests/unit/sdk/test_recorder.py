"""Recording of what devices report, into registries that fail."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from edgeml.fleet import leadership, recorder
from edgeml.fleet.leadership import Election
from edgeml.fleet.recorder import Recorder
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml_core.errors import DeviceError
from edgeml_core.messages import DeviceState, Report
from support.waiting import until_async

pytestmark = pytest.mark.anyio
SIGNED = frozenset({"line-1-1"})
DEVICES = frozenset(f"pi-{number}" for number in range(10))


class Journal:
    """Events by name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Note an event."""
        self.events.append((name, fields | {"text": text}))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def journal() -> Journal:
    return Journal()


@contextlib.asynccontextmanager
async def running(registry: Registry, journal: Journal, *, leads_on: bool = True) -> AsyncIterator[Recorder]:
    """A recorder that writes. A host that doesn't lead on takes no second turn after another host's."""
    election = Election(registry.database)
    await election.turn()
    made = Recorder(registry, election, journal)
    made.use(deployments=SIGNED, devices=DEVICES)
    tasks = {asyncio.create_task(it) for it in (made.run(), *([election.run()] if leads_on else []))}
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        registry.close()


def report(deployment: str, **changes: Any) -> Report:
    """A device's report."""
    return Report(deployment=deployment, name="line", version="1", state="active", session=1, **changes)


def state(session: int) -> DeviceState:
    """A device's state."""
    return DeviceState(online=True, session=session, agent="1", arch="x86_64", models={})


async def test_reports_of_deployments_that_are_not_signed_are_left_out(tmp_path: Path, journal: Journal):
    """One device could fill the disk with made-up ones; those of a deployment that has gone are forgotten, too."""
    registry = Registry(tmp_path / "fleet.db")
    async with running(registry, journal) as made:
        for number in range(100):
            made.put("pi-1", report(f"made-up-{number}"))
        made.put("pi-1", report("line-1-1"))
        await until_async(lambda: registry.reports("line-1-1"))
        made.use(deployments=frozenset({"line-2-2"}), devices=DEVICES)
        made.use(
            deployments=frozenset({"line-2-2"}), devices=DEVICES
        )  # the host reads its repository again, unchanged but for a signature
        made.put("pi-1", report("line-2-2"))
        await until_async(lambda: registry.reports("line-2-2"))
        rows = sqlite3.connect(tmp_path / "fleet.db").execute("SELECT deployment FROM report").fetchall()
        assert rows == [("line-2-2",)]


async def test_messages_wait_while_the_disk_is_full(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch):
    """SQLite itself rolls back then; the recorder reports it once. Later it records all, and only then calls back."""
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    registry = Registry(tmp_path / "fleet.db")
    registry.devices()
    database = sqlite3.connect(tmp_path / "fleet.db")
    pages = [database.execute("PRAGMA page_count").fetchone()[0]]
    database.close()

    @event.listens_for(registry.database.engine, "begin")
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages[-1]}")

    async with running(registry, journal) as made:
        recorded: list[int] = []
        for number in range(3):
            made.put(f"pi-{number}", report("line-1-1", message="x" * 20_000))
            made.after(functools.partial(recorded.append, number))
            await until_async(lambda: journal.events)
            await asyncio.sleep(0.05)
        assert recorded == []
        assert [name for name, _ in journal.events] == ["record-failed"]
        assert "full" in journal.events[0][1]["message"]
        pages.append(100_000)
        made.put("pi-9", state(1))
        await until_async(lambda: len(recorded) == 3 and registry.devices())
        assert registry.reports("line-1-1").keys() == {"pi-0", "pi-1", "pi-2"}
        assert registry.devices().keys() == {"pi-9"}
        assert recorded == [0, 1, 2]
        made.after(functools.partial(recorded.append, 3))
        assert recorded == [0, 1, 2, 3]


async def test_a_registry_that_can_not_be_opened_is_used_once_it_can(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    """Delivery needs none; the operator is notified, and moves the file away."""
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    monkeypatch.setattr(leadership, "TURN_EVERY_S", 0.01)
    (tmp_path / "fleet.db").write_bytes(b"no database " * 1000)
    registry = Registry(tmp_path / "fleet.db")
    async with running(registry, journal) as made:
        made.put("pi-1", state(1))
        await until_async(lambda: journal.events)
        assert [name for name, _ in journal.events] == ["record-failed"]
        (tmp_path / "fleet.db").rename(tmp_path / "damaged")
        made.put("pi-2", state(1))
        await until_async(lambda: "pi-2" in registry.devices())


async def test_messages_that_another_leader_receives_are_dropped(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    """Without a callback, so that the broker sends them to that leader."""
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    registry = Registry(tmp_path / "fleet.db")
    election, other = Election(registry.database), Election(registry.database)
    await election.turn()
    made = Recorder(registry, election, journal)
    made.use(deployments=SIGNED, devices=DEVICES)
    await other.turn()
    recorded: list[int] = []
    made.put("pi-1", state(1))
    made.after(functools.partial(recorded.append, 1))
    task = asyncio.create_task(made.run())
    await until_async(lambda: journal.events)
    election._set(is_leader=False)
    await until_async(lambda: made._messages == 0)
    assert (recorded, registry.devices()) == ([], {})
    task.cancel()
    await asyncio.wait({task})
    registry.close()


async def test_rows_of_devices_that_have_left_are_forgotten(tmp_path: Path, journal: Journal):
    """So the database doesn't grow with each device that ever was enrolled."""
    registry = Registry(tmp_path / "fleet.db")
    async with running(registry, journal) as made:
        made.put("pi-1", state(1))
        made.put("pi-1", report("line-1-1"))
        await until_async(lambda: registry.history("pi-1", "report"))
        made.use(deployments=SIGNED, devices=frozenset({"pi-2"}))
        made.put("pi-2", state(1))
        await until_async(lambda: registry.devices().keys() == {"pi-2"})
        assert registry.history("pi-1", "report") == registry.history("pi-1", "state") == []


async def test_a_host_that_was_away_forgets_nothing_before_it_has_looked(tmp_path: Path, journal: Journal):
    """Another one may have signed a deployment since, whose failures are reported once."""
    registry = Registry(tmp_path / "fleet.db")
    registry.record([DeviceMessage(device="pi-1", message=report("line-2-2"), seen_s=1.0)])
    async with running(registry, journal) as made:
        made.await_use()
        made.put("pi-1", state(1))
        await until_async(registry.devices)
        assert registry.reports("line-2-2")
        made.use(deployments=SIGNED, devices=DEVICES)
        made.put("pi-1", state(2))
        await until_async(lambda: not registry.reports("line-2-2"))


async def test_a_host_that_leads_no_more_forgets_nothing(tmp_path: Path, journal: Journal):
    """It doesn't know what the next one has signed."""
    registry = Registry(tmp_path / "fleet.db")
    registry.record([DeviceMessage(device="pi-1", message=report("line-2-2"), seen_s=1.0)])
    async with running(registry, journal, leads_on=False) as made:
        other = Election(registry.database)
        await other.turn()
        made.put("pi-1", state(1))
        await until_async(lambda: journal.events)
        assert registry.reports("line-2-2")


async def test_more_messages_than_the_queue_holds_are_told_once(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    """A flood of one device is one line in the log."""
    monkeypatch.setattr(recorder, "RECORD_QUEUE_MAX", 2)
    registry = Registry(tmp_path / "fleet.db")
    made = Recorder(registry, Election(registry.database), journal)
    for number in range(10):
        made.put("pi-1", state(number))
    assert [name for name, _ in journal.events] == ["record-failed"]


async def test_a_flood_of_one_device_loses_no_report_of_another(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    """While the registry fails: nothing holds back what is sent without an acknowledgement, of a whole site, too."""
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    registry = Registry(tmp_path / "fleet.db")
    record, fails = registry.record, [True]

    def record_later(*given: Any) -> None:
        if fails:
            raise DeviceError("store-failed", "the disk is full")
        record(*given)

    monkeypatch.setattr(registry, "record", record_later)
    async with running(registry, journal) as made:
        for number in range(2 * recorder.RECORD_QUEUE_MAX):
            made.put("pi-0", state(number))
        made.put("pi-1", report("line-1-1"))
        for number in range(2 * recorder.RECORD_QUEUE_MAX):
            made.put(f"site-{number % 1000}", state(number), is_acknowledged=False)
        made.put("pi-2", report("line-1-1"))
        fails.clear()
        await until_async(lambda: registry.reports("line-1-1").keys() == {"pi-1", "pi-2"})
        await until_async(lambda: made._messages == 0)
        assert made._of_device == {}
        made.put("pi-0", state(1))
        await until_async(lambda: registry.devices()["pi-0"].state.session == 1)
    assert [name for name, _ in journal.events] == ["record-failed"]
    assert "100 messages of pi-0 wait" in journal.events[0][1]["message"]
