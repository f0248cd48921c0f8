"""The choice of a leader where there is one host: a database in a file, also one that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeml.fleet import leadership
from edgeml.fleet.database.engine import Database
from edgeml.fleet.leadership import Election, Part, hosts
from edgeml_core import chunks, wire_keys
from edgeml_core.errors import DeviceError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_only_host_leads_and_keeps_the_session(tmp_path: Path):
    """Each start is another term; the session with the broker stays with the database."""
    sessions = []
    for file in ("fleet.db", "fleet.db", "other.db"):
        database = Database(tmp_path / file)
        election = Election(database)
        assert not election.is_leader
        await election.turn()
        assert election.is_leader
        sessions.append(election.session)
        database.close()
    assert sessions[0] == sessions[1] != sessions[2] != ""


async def test_a_host_without_its_database_still_leads(tmp_path: Path):
    """Delivery needs no registry; once the database works, it has a term."""
    (tmp_path / "fleet.db").write_bytes(b"no database " * 1000)
    database = Database(tmp_path / "fleet.db")
    election = Election(database)
    await election.turn()
    assert (election.is_leader, election.session) == (True, "")
    (tmp_path / "fleet.db").unlink()
    await election.turn()
    with database.writing() as connection:
        election.check(connection)
    assert election.session
    database.close()


async def test_a_new_file_in_the_place_of_a_damaged_one_gets_a_term(tmp_path: Path):
    """Else the only host would record nothing until its restart: "another host leads". Its session stays."""
    path = tmp_path / "fleet.db"
    database = Database(path)
    election = Election(database)
    await election.turn()
    session = election.session
    database.close()
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(DeviceError, match="can't be used"), database.reading():
        pass
    path.unlink()
    await election.turn()
    with database.writing() as connection:
        election.check(connection)
    assert (election.is_leader, election.session) == (True, session)
    database.close()


async def test_a_decision_of_an_earlier_term_is_refused(tmp_path: Path):
    """The transaction fails, so nothing of it is written."""
    database = Database(tmp_path / "fleet.db")
    earlier, later = Election(database), Election(database)
    await earlier.turn()
    with database.writing() as connection:
        earlier.check(connection)
    await later.turn()
    with pytest.raises(DeviceError, match="another host leads"), database.writing() as connection:
        earlier.check(connection)
    with database.writing() as connection:
        later.check(connection)
    database.close()


def test_each_chunk_belongs_to_one_host_with_its_deltas():
    """And each host has about as many as the others."""
    keys = [wire_keys.chunk_id(chunks.sha256(str(number).encode())) for number in range(900)]
    parts = [Part(index, 3).of(keys) for index in range(3)]
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert all(250 < len(part) < 350 for part in parts)
    assert [Part(index, 3).of([f"{key}/{keys[0]}" for key in keys]) for index in range(3)] == [
        [f"{key}/{keys[0]}" for key in part] for part in parts
    ]
    assert Part().of(keys) == keys


async def test_a_host_gives_signs_of_life_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that ends in order is gone at once, one that was killed after a while."""
    monkeypatch.setattr(leadership, "TURN_EVERY_S", 0.01)
    database = Database(tmp_path / "fleet.db")
    killed, running = Election(database, "killed"), Election(database, "running")
    await killed.turn()
    task = asyncio.create_task(running.run())
    await running.until(is_leader=True)
    found = {it.name: it for it in hosts(database)}
    assert set(found) == {"killed", "running"}
    assert found["running"].age_s < leadership.GONE_AFTER_S
    task.cancel()
    await asyncio.wait({task})
    assert not running.is_leader
    assert [it.name for it in hosts(database)] == ["killed"]
    monkeypatch.setattr(leadership, "GONE_AFTER_S", 0.0)
    assert hosts(database) == []
    database.close()
