"""A site behind a relay: what its devices get and say, and what that costs the network."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgeml.fleet import status
from integration.delivery_site import MODEL, until
from integration.relayed_site import SITE, RelayedSite, relayed_site, running, serving

MANY = 50


async def update_one(site: RelayedSite, version: str) -> int:
    """The bytes that a device alone takes from its start until it serves."""
    before = site.line.passed_bytes
    async with running([site.device("alone")], f"mqtt://127.0.0.1:{site.line.port}") as devices:
        await serving(devices, version)
        await asyncio.sleep(1.0)
        return site.line.passed_bytes - before


async def update_all(site: RelayedSite, version: str) -> int:
    """The bytes that the site takes from the start of its relay and devices until all serve and have said so."""
    before = site.line.passed_bytes
    site.start_relay()
    async with running([site.device(name) for name in site.names], site.local.url) as devices:
        await serving(devices, version)
        await asyncio.to_thread(until, lambda: has_told(site, version), "all reports")
        return site.line.passed_bytes - before


def has_told(site: RelayedSite, version: str) -> bool:
    """Whether the host knows of every device of the site that it serves a version."""
    told = {it.id: it.models.get(MODEL) for it in status.devices(site.repo) if it.labels.get("site") == SITE}
    return all(model is not None and model.version == version for model in told.values())


def test_fifty_devices_cost_the_network_as_much_as_one(tmp_path: Path) -> None:
    """At most 5 % more, counted as bytes of TCP: metadata, wants, chunks, states and reports."""
    with relayed_site(tmp_path, MANY) as site:
        site.release("1.0", weights_bytes=6_000_000)
        one = asyncio.run(update_one(site, "1.0"))
        all_of_them = asyncio.run(update_all(site, "1.0"))
        print(f"one device {one:,} bytes, {MANY} and their relay {all_of_them:,}: {all_of_them / one:.3f}")
        assert one > 6_000_000
        assert all_of_them <= 1.05 * one
