"""A site behind a relay: what its devices get and say, and what that costs the network."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiomqtt import Client

from edgeml.fleet import status
from edgeml.fleet.call import DeviceConnection, ask, new
from edgeml.fleet.link import Broker
from edgeml_agent.relay.cache import FOLDER_NAME, Cache
from edgeml_core import broker as broker_urls
from edgeml_core import relay_batch
from edgeml_core.calls import Reply, Timing
from edgeml_core.messages import DeviceState, Topics
from edgeml_core.relay_batch import RelayedMessage
from support.brokers import Mosquitto
from support.delivery_site import FLEET, until
from support.relayed_site import GROUP, RELAY, address, has_told, relayed_site, running, serving, update_all, update_one

MANY = 50
WEIGHTS_BYTES = 6_000_000


@pytest.mark.nightly
def test_site_of_fifty_devices_costs_the_network_as_much_as_one(tmp_path: Path) -> None:
    """At most 5 % more, counted as bytes of TCP: metadata, wants, chunks, states and reports."""
    with relayed_site(tmp_path, MANY) as site:
        site.release("1.0", weights_bytes=WEIGHTS_BYTES)
        one = asyncio.run(update_one(site, "1.0"))
        all_of_them = asyncio.run(update_all(site, "1.0"))
        print(f"one device {one:,} bytes, {MANY} and their relay {all_of_them:,}: {all_of_them / one:.3f}")
        assert one > WEIGHTS_BYTES
        assert all_of_them <= 1.05 * one


def test_site_without_the_network_is_updated_and_reports_later(tmp_path: Path) -> None:
    """A device that comes late gets a release that others have, from its relay; what it says is passed on later."""
    with relayed_site(tmp_path, 2) as site:
        site.release("1.0", weights_bytes=WEIGHTS_BYTES)
        site.start_relay()
        first, late = ([site.device(name)] for name in site.names)

        async def update() -> None:
            async with running(first, site.local.port) as devices:
                await serving(devices, "1.0")
                await asyncio.to_thread(until, lambda: has_told(site, "1.0", site.names[:1]), "the first report")
            site.wide.stop()
            async with running(late, site.local.port) as devices:
                await serving(devices, "1.0")
                site.wide.start()
                await asyncio.to_thread(until, lambda: has_told(site, "1.0"), "all reports")

        asyncio.run(update())


def test_killed_relay_continues_its_pulls(tmp_path: Path) -> None:
    """What it had pulled is there; its site's devices notice no more than a pause."""
    with relayed_site(tmp_path, 3) as site:
        site.release("1.0", weights_bytes=WEIGHTS_BYTES)
        relay = site.start_relay()
        cache = site.device(RELAY) / "store" / FOLDER_NAME

        async def update() -> None:
            async with running([site.device(name) for name in site.names], site.local.port) as devices:
                await asyncio.to_thread(until, lambda: len(list(cache.glob("*"))) > 20, "some chunks")
                relay.kill()
                site.start_relay()
                await serving(devices, "1.0")

        asyncio.run(update())
        assert site.line.passed_bytes < 1.5 * WEIGHTS_BYTES


def test_bad_copy_in_the_relay_is_pulled_again(tmp_path: Path) -> None:
    """The relay can't tell, the devices do: each copy is judged by its digest, and the right one comes in the end."""
    with relayed_site(tmp_path, 2) as site:
        site.release("1.0", weights_bytes=WEIGHTS_BYTES)
        relay = site.start_relay()

        async def update(name: str) -> None:
            async with running([site.device(name)], site.local.port) as devices:
                await serving(devices, "1.0")

        asyncio.run(update(site.names[0]))
        relay.stop()
        cache = Cache(site.device(RELAY) / "store" / FOLDER_NAME, 1 << 30)
        for path in sorted((site.device(RELAY) / "store" / FOLDER_NAME).iterdir())[:3]:
            cache.put(path.name, b"forged")
        site.start_relay()
        asyncio.run(update(site.names[1]))
        assert site.log.count("relay pulls again") == 3


def test_encrypted_release_passes_the_relay(tmp_path: Path) -> None:
    """The relay, which lacks the group's key, passes on what it can't read under names that it can't know."""
    with relayed_site(tmp_path, 2) as site:
        site.release("1.0", GROUP, weights_bytes=1_000_000)
        site.start_relay()

        async def update() -> None:
            async with running([site.device(name) for name in site.names], site.local.port) as devices:
                await serving(devices, "1.0")

        asyncio.run(update())
        cached = {path.name for path in (site.device(RELAY) / "store" / FOLDER_NAME).iterdir()}
        stored = {path.name for path in (site.repo / "chunks").glob("*/*")}
        assert len(cached) == len(stored)
        assert not cached & stored


def test_calls_and_replies_pass_the_relay(tmp_path: Path) -> None:
    """A device behind a relay is called as any other; the rights that the shipped rules give are enough for all."""
    with relayed_site(tmp_path, 1, has_rights=True) as site:
        digest = site.release("1.0")
        site.start_relay()
        line = DeviceConnection(broker=Broker(url=broker_urls.parse(address("operator", site.wide.port))), fleet=FLEET)

        async def call() -> Reply:
            async with running([site.device(site.names[0])], site.local.port) as devices:
                await serving(devices, "1.0")
                await asyncio.to_thread(until, lambda: has_told(site, "1.0"), "all reports")
                return await asyncio.to_thread(
                    ask, line, site.names[0], new("verify", manifest_sha256=digest, timing=Timing())
                )

        reply = asyncio.run(call())
        assert reply.reproduced is not None
        assert reply.reproduced.min_cosine == 1.0


def test_relay_reports_count_for_its_own_site_only(tmp_path: Path) -> None:
    """By the signed labels: for no device elsewhere, and for none that isn't enrolled."""
    with relayed_site(tmp_path, 1) as site:
        state = DeviceState(online=True, session=7)
        sayings = [RelayedMessage(device=name, state=state) for name in ("alone", site.names[0], "unknown")]
        asyncio.run(publish(site.wide, Topics(FLEET).relay(RELAY), *relay_batch.pack(sayings)))
        asyncio.run(publish(site.wide, Topics(FLEET).relay("alone"), *relay_batch.pack(sayings)))
        until(lambda: any(it.seen_s for it in status.devices(site.repo)), "a state")
        assert [it.id for it in status.devices(site.repo) if it.seen_s] == [site.names[0]]


async def publish(broker: Mosquitto, topic: str, payload: bytes) -> None:
    """Say something on a broker."""
    async with Client("127.0.0.1", broker.port) as client:
        await client.publish(topic, payload, qos=1)
