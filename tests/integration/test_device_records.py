"""Devices' records on their way: a new label, a revocation, a forged copy; over one broker, and behind a relay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiomqtt import Client

from edgeml import Repository
from edgeml.repository.deployments import deploy
from edgeml_core import messages, records
from edgeml_core.messages import DeviceState, Topics, Want
from support.delivery_site import FLEET
from support.relayed_site import MODEL, RELAY, SITE, RelayedSite, relayed_site, running, serving
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S, until_async

TOPICS = Topics(FLEET)
#: Seconds within which a revocation must be effective.
REVOKED_S = 10.0


@contextmanager
def a_site(folder: Path) -> Iterator[tuple[RelayedSite, Repository]]:
    """A site of two devices, and a release for those in the ring `early`, which none is in yet."""
    with relayed_site(folder, 2) as site:
        repo = Repository.open(site.repo)
        release(site, repo, "1.0", "ring=early")
        yield site, repo


def release(site: RelayedSite, repo: Repository, version: str, to: str) -> None:
    """Publish a version, and deploy it to some devices."""
    tiny_onnx_bundle(site.folder / f"{version}.edgeml", name=MODEL, version=version)
    repo.publish(site.folder / f"{version}.edgeml")
    deploy(site.repo, MODEL, version, selector=to, allow_empty=True)


async def code_of(client: Client, device: str) -> str:
    """The reason for which a device refuses everything, as soon as its state has one."""
    await client.subscribe(TOPICS.state(device), qos=1)
    async for message in client.messages:
        if message.topic.matches(TOPICS.state(device)) and message.payload:
            state = messages.decode(bytes(message.payload), DeviceState)
            if state.code:
                return state.code
    raise AssertionError("the connection ended")


@pytest.mark.parametrize("is_relayed", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_new_label_and_revocation_reach_a_device_within_seconds(tmp_path: Path, is_relayed: bool) -> None:
    """One message each; the other devices' update goes on. A revoked device serves what it has, and gets nothing."""
    with a_site(tmp_path) as (site, repo):
        if is_relayed:
            site.start_relay()
        port = site.local.port if is_relayed else site.wide.port

        async def steps() -> None:
            async with running([site.device(name) for name in site.names], port) as devices:
                kept, stolen = devices
                await until_async(lambda: all(it.link.is_online for it in devices), "the connections")
                for name in site.names:
                    await asyncio.to_thread(repo.relabel, name, {"ring": "early"})
                await serving(devices, "1.0")
                await asyncio.to_thread(repo.revoke, site.names[1])
                async with Client("127.0.0.1", port) as client:
                    async with asyncio.timeout(TIMEOUT_S):  # without the message the device looks after ten minutes
                        assert await code_of(client, site.names[1]) == "device-revoked"
                    await asyncio.to_thread(release, site, repo, "2.0", "")
                    await serving([kept], "2.0")
                    assert stolen.serves("1.0")

        asyncio.run(steps())


@pytest.mark.nightly
def test_host_ignores_the_wants_of_a_revoked_device(tmp_path: Path) -> None:
    """Also those of a stolen board that doesn't listen to its record; those of others are answered."""
    with a_site(tmp_path) as (site, repo):
        key = next(path.name for path in (site.repo / "chunks").glob("*/*"))
        first, second = site.names

        async def answers(client: Client, device: str) -> bool:
            for _ in range(round(REVOKED_S)):
                await client.publish(TOPICS.want(device), messages.encode(Want(keys=(key,))))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await anext(client.messages)
                        return True
            return False

        async def steps() -> None:
            async with Client("127.0.0.1", site.wide.port) as client:
                await client.subscribe(TOPICS.chunk(key))
                assert await answers(client, first)
                await asyncio.to_thread(repo.revoke, first)
                await asyncio.sleep(REVOKED_S / 2)
                assert not await answers(client, first)
                assert await answers(client, second)

        asyncio.run(steps())


@pytest.mark.nightly
def test_forged_record_on_the_broker_is_repaired(tmp_path: Path) -> None:
    """Nobody but the host may write it, but a broker without rights lets everyone."""
    with relayed_site(tmp_path, 1) as site:
        (name,) = site.names
        topic = TOPICS.record(name)

        async def steps() -> None:
            async with Client("127.0.0.1", site.wide.port) as client:
                await client.subscribe(topic, qos=1)
                right = bytes((await anext(client.messages)).payload)
                for forged in (b"forged", b""):
                    await client.publish(topic, forged, qos=1, retain=True)
                    assert bytes((await anext(client.messages)).payload) == forged
                    async with asyncio.timeout(REVOKED_S):
                        assert bytes((await anext(client.messages)).payload) == right

        asyncio.run(steps())


@pytest.mark.nightly
def test_relay_is_enrolled_like_a_device(tmp_path: Path) -> None:
    """Its own record is in its site's message; the device without a site isn't."""
    with relayed_site(tmp_path, 1) as site:

        async def read() -> bytes:
            async with Client("127.0.0.1", site.wide.port) as client:
                await client.subscribe(TOPICS.site(SITE), qos=1)
                return bytes((await anext(client.messages)).payload)

        lines = records.unpack_site(asyncio.run(read()))
        assert [records.decode(line).signed.device for line in lines] == sorted([*site.names, RELAY])
