"""Recording of what devices report, into registries that fail."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from edgeml.fleet import recorder
from edgeml.fleet.recorder import Recorder
from edgeml.fleet.registry import Registry
from edgeml_core.messages import DeviceState, Report
from support.waiting import until_async

pytestmark = pytest.mark.anyio
SIGNED = frozenset({"line-1-1"})


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
async def running(registry: Registry, journal: Journal) -> AsyncIterator[Recorder]:
    """A recorder that writes."""
    made = Recorder(registry, journal)
    made.use(SIGNED)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})
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
        made.use(frozenset({"line-2-2"}))
        made.use(frozenset({"line-2-2"}))  # the host reads its repository again, unchanged but for a signature
        made.put("pi-1", report("line-2-2"))
        await until_async(lambda: registry.reports("line-2-2"))
        rows = sqlite3.connect(tmp_path / "fleet.db").execute("SELECT deployment FROM report").fetchall()
        assert rows == [("line-2-2",)]


async def test_a_full_disk_costs_records_until_it_has_room(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    """SQLite itself rolls back then; the recorder tells once, and records again."""
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
        for number in range(3):
            made.put(f"pi-{number}", report("line-1-1", message="x" * 20_000))
            await until_async(lambda: journal.events)
            await asyncio.sleep(0.05)
        assert [name for name, _ in journal.events] == ["record-failed"]
        assert "full" in journal.events[0][1]["message"]
        pages.append(100_000)
        made.put("pi-9", state(1))
        await until_async(registry.devices)
        assert registry.devices().keys() == {"pi-9"}


async def test_a_registry_that_can_not_be_opened_is_used_once_it_can(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    """Delivery needs none; the operator is notified, and moves the file away."""
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    (tmp_path / "fleet.db").write_bytes(b"no database " * 1000)
    registry = Registry(tmp_path / "fleet.db")
    async with running(registry, journal) as made:
        made.put("pi-1", state(1))
        await until_async(lambda: journal.events)
        assert [name for name, _ in journal.events] == ["record-failed"]
        (tmp_path / "fleet.db").rename(tmp_path / "damaged")
        made.put("pi-2", state(1))
        await until_async(lambda: "pi-2" in registry.devices())


async def test_more_messages_than_the_queue_holds_are_told_once(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    """A flood of one device is one line in the log."""
    monkeypatch.setattr(recorder, "RECORD_QUEUE_MAX", 2)
    made = Recorder(Registry(tmp_path / "fleet.db"), journal)
    for number in range(10):
        made.put("pi-1", state(number))
    assert [name for name, _ in journal.events] == ["record-failed"]
