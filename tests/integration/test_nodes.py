"""A host announces at each node of its broker's cluster: here Mosquittos that know nothing of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from edgeml.fleet.fleet import Fleet
from edgeml.repository import Repository
from edgeml_core import broker as broker_urls
from edgeml_core import trust
from edgeml_core.messages import Topics
from support import brokers
from support.light_agents import published
from support.waiting import TIMEOUT_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_each_node_retains_the_signed_files_and_records(tmp_path: Path) -> None:
    """A node that was away, and forgot all, gets the newest; the host takes no copy for a file of another client."""
    published(tmp_path / "repo", ["pi-1"], weights_bytes=1000)
    repository = Repository.open(tmp_path / "repo")
    topics, timestamp = Topics(repository.fleet_name), repository.path / trust.FLEET / trust.TIMESTAMP_FILE
    told: list[str] = []
    with brokers.mosquitto(tmp_path / "own") as own, brokers.mosquitto(tmp_path / "node") as node:
        fleet = Fleet(repository, broker=own.url, nodes=[own.url, node.url])
        serving = asyncio.create_task(fleet.serve_async(told.append))
        await retained(node.url, topics.trust(trust.FLEET, trust.TIMESTAMP_FILE), timestamp.read_bytes)
        await retained(node.url, topics.record("pi-1"))

        await asyncio.to_thread(node.stop)
        await asyncio.to_thread(repository.undeploy, "tiny")
        await retained(own.url, topics.trust(trust.FLEET, trust.TIMESTAMP_FILE), timestamp.read_bytes)
        await asyncio.to_thread(node.start)
        await retained(node.url, topics.trust(trust.FLEET, trust.TIMESTAMP_FILE), timestamp.read_bytes)
        await retained(node.url, topics.record("pi-1"))
        assert not serving.done(), serving.result()
        serving.cancel()
        await asyncio.wait({serving})
    assert [it for it in told if "repaired" in it] == []


async def retained(url: str, topic: str, expected: Callable[[], bytes] | None = None) -> None:
    """Wait until a broker has a message, or this one, on a topic."""
    address = broker_urls.parse(url)
    async with asyncio.timeout(TIMEOUT_S), aiomqtt.Client(address.host, address.port) as client:
        await client.subscribe(topic, qos=1)
        async for message in client.messages:
            if expected is None or message.payload == expected():
                return
