"""`fleet serve` beside a database whose statements hang: chunks are sent on, also on a machine with one core."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiomqtt
import pytest

from edgeml import repository
from edgeml.fleet import leadership, serve
from edgeml.fleet.database.engine import Database
from edgeml.fleet.database.schema import METADATA
from edgeml.fleet.link import Broker
from edgeml.fleet.registry import Registry
from edgeml_core import broker as broker_urls
from edgeml_core import messages, wire_keys
from edgeml_core.messages import DeviceState, Topics, Want
from support import brokers, postgresql, samples
from support.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.nightly]

TOPICS = Topics("farm")
#: Seconds for a chunk; a statement that hangs ends after `engine.STATEMENT_TIMEOUT_S`, three times as many.
CHUNK_S = 10.0


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio."""
    return "asyncio"


class Journal:
    """The names of events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, text: str, **fields: object) -> None:
        """Note an event."""
        self.names.append(name)


async def test_database_that_hangs_holds_up_no_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each task that waits for it holds a thread, and Python makes as few as there are cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    repo = tmp_path / "repo"
    repository.init(repo, fleet="farm")
    (tmp_path / "sample.edgeml").write_bytes(samples.a_bundle())
    repository.publish(repo, [tmp_path / "sample.edgeml"])
    repository.enroll(repo, "pi-1", labels={}, broker_url=None, out_dir=tmp_path / "pi-1")
    key, journal = wire_keys.chunk_id(samples.a_manifest().files[-1].chunks[0]), Journal()
    with postgresql.postgresql() as server, brokers.mosquitto(tmp_path / "broker") as mosquitto:
        url, database = broker_urls.parse(mosquitto.url), Database(server.url)
        serving = asyncio.create_task(serve.serve(repo, Broker(url=url), journal, registry=Registry(server.url)))
        await until_async(lambda: "announced" in journal.names)
        async with aiomqtt.Client(url.host, url.port) as client:
            await client.subscribe(TOPICS.chunk(key))
            with database.writing() as connection:
                connection.exec_driver_sql(f"LOCK TABLE {', '.join(METADATA.tables)}")
                state = messages.encode(DeviceState(online=True, session=1))
                await client.publish(TOPICS.state("pi-1"), state, qos=1)
                await asyncio.sleep(leadership.TURN_EVERY_S + leadership.LEASE_S)
                await until_async(lambda: journal.names.count("connected") == 2, "it follows", CHUNK_S)
                await client.publish(TOPICS.want("pi-1"), messages.encode(Want(keys=(key,))), qos=1)
                async with asyncio.timeout(CHUNK_S):
                    await anext(client.messages)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        database.close()
