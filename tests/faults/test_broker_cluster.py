"""Nodes of RabbitMQ in one cluster, with the fleet's certificates: one is killed in the middle of a rollout.

They are three, since its MQTT plugin supports no cluster of two. What a node retains it keeps to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from edgeml.fleet import own_certificate
from edgeml.fleet.fleet import Fleet
from edgeml.fleet.link import client_id, session
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan
from edgeml.repository import Repository
from edgeml.repository.certificates import Role
from edgeml_core import broker as broker_urls
from edgeml_core import trust
from edgeml_core.messages import Topics
from support import certified_brokers
from support.counting_proxy import counting
from support.ports import free_port
from support.programs import agent_command, enroll, host_command, programs
from support.tiny_models import tiny_onnx_bundle
from support.waiting import until

pytestmark = pytest.mark.nightly

FLEET, MODEL = "farm", "tiny"
#: The first one has the node of the host, which is killed.
DEVICES = ("barn-1", "barn-2")
USERS: dict[str, Role] = dict.fromkeys(DEVICES, "device") | {"origin": "host"}
#: Seconds between the waves: time for the kill.
SOAK_S: Final = 5.0
#: Seconds for each step: the nodes elect leaders of their queues, and devices wait up to two minutes.
STEP_S: Final = 600.0
LOOK_S: Final = 0.2
#: Seconds for a retained message.
RETAINED_S: Final = 5.0


def test_rollout_survives_the_loss_of_a_node(tmp_path: Path) -> None:
    """Its device and the host come to the next node, which has all signed files; the node itself gets the new ones."""
    repository = Repository.init(tmp_path / "repo", fleet=FLEET, passphrase="")
    ports = [free_port() for _ in range(3)]
    with (
        certified_brokers.rabbitmq_cluster(repository, ports, tmp_path / "broker", USERS) as (killed, *_),
        counting(*ports[:2]) as first,
        counting(*ports[1:]) as second,
        programs() as started,
    ):
        nodes = [it for port in ports for it in ("--node", address(port))]
        started.start(tmp_path / "host.log", *host_command(repository.path, address(first.port)), *nodes)
        for device, way in zip(DEVICES, (first, second), strict=True):
            config = enroll(repository.path, device, None, tmp_path / device)
            config.write_text(re.sub(r'url = ".*"', f'url = "{address(way.port)}"', config.read_text()))
            started.start(tmp_path / f"{device}.log", *agent_command(config))
        publish(repository, "1.0")
        repository.deploy(MODEL, "1.0")
        step(lambda: states(repository) == {"active": len(DEVICES)}, "the first version on both nodes")

        publish(repository, "2.0")
        begun = Fleet(repository).roll_out(MODEL, "2.0", plan=Plan(waves=(50, 100), soak_s=SOAK_S))
        step(lambda: states(repository).get("active") == 1, "the first wave")
        killed.kill()
        step(lambda: Fleet(repository).rollout(begun.id)[0].phase in ENDED, "the end of the rollout")
        assert Fleet(repository).rollout(begun.id)[0].phase is Phase.COMPLETED
        step(lambda: states(repository) == {"active": len(DEVICES)}, "the second version on both devices")
        assert "disconnected" in (tmp_path / f"{DEVICES[0]}.log").read_text()

        killed.start()
        newest = (repository.path / trust.FLEET / trust.TIMESTAMP_FILE).read_bytes()
        step(lambda: timestamp(repository, killed.port) == newest, "the newest files at the node that came back")
    assert "repaired" not in (tmp_path / "host.log").read_text()


def address(port: int) -> str:
    """The address of a broker by the name in its certificate."""
    return f"mqtts://{certified_brokers.HOST}:{port}"


def step(holds: Callable[[], object], what: str) -> None:
    """Wait for a step of the test; looks take time that the nodes need."""

    def looked() -> object:
        time.sleep(LOOK_S)
        return holds()

    until(looked, what, STEP_S)


def publish(repository: Repository, version: str) -> None:
    """Sign a version of the model."""
    bundle = repository.path.parent / f"{version}.edgeml"
    tiny_onnx_bundle(bundle, name=MODEL, version=version)
    repository.publish(bundle)


def states(repository: Repository) -> dict[str, int]:
    """How many devices are in which state of the newest deployment."""
    return Fleet(repository).status().deployments[-1].states


def timestamp(repository: Repository, port: int) -> bytes:
    """The fleet's timestamp that a node retains; empty without one."""
    return asyncio.run(_timestamp(repository, port))


async def _timestamp(repository: Repository, port: int) -> bytes:
    where = own_certificate.broker(repository.path, broker_urls.parse(address(port)))
    topics = Topics(FLEET)
    async with session(where, client_id(topics), is_lasting=False).connected() as connection:
        await connection.subscribe([(topics.trust(trust.FLEET, trust.TIMESTAMP_FILE), 1)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETAINED_S):
                return (await anext(connection)).payload
    return b""
