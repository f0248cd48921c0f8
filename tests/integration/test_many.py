"""One release for many devices, on a real Mosquitto: how often each chunk goes out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support import brokers
from support.light_agents import LightAgent, Publications, connected, fetch_all, host, published

# Devices that wait for a core ask later, and chunks are published again for them.
pytestmark = pytest.mark.timing

DEVICES = [f"board-{number}" for number in range(8)]
WEIGHTS_BYTES = 12 * 1024**2


def publications(folder: Path, *, slow_s: float = 0.0) -> float:
    """How often each chunk is published for eight devices, the last of which may be slow."""
    release = published(folder / "repo", DEVICES, weights_bytes=WEIGHTS_BYTES)

    async def run(url: str) -> None:
        agents = [LightAgent(folder, name, url) for name in DEVICES[:-1]]
        agents.append(LightAgent(folder, DEVICES[-1], url, chunk_s=slow_s))
        async with connected(agents):
            await fetch_all(agents, release)

    with brokers.mosquitto(folder / "broker") as broker, host(folder / "repo", broker.url):
        counted = Publications(broker.port)
        try:
            asyncio.run(run(broker.url))
        finally:
            counted.close()
    return counted.per_chunk(release)


def test_devices_that_start_together_share_publications(tmp_path: Path) -> None:
    """At most 1.3 for each chunk; devices of other kinds are simulated in `tests/unit/origin/test_sharing.py`."""
    assert publications(tmp_path) <= 1.3


def test_slow_device_costs_one_more_copy_at_most(tmp_path: Path) -> None:
    """At most one more copy of each chunk, and a few that are lost or late."""
    assert publications(tmp_path, slow_s=0.02) <= 2.2
