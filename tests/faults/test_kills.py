"""SIGKILL of agents, origin, broker and publisher at random instants of one update after the other.

A killed agent must start with the version that it served, and serve only released files. Every update must arrive once
the kills pause. Three kills soon after an activation look like a model that crashes the agent: the rollback after them
is right, and counted.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from edgeml import repository
from faults import campaign
from faults.fleet import Device, Fleet, fleet, until
from faults.forked import Forked
from support import brokers
from support.scale import scaled

KILLS: Final = scaled(200, otherwise=20)
DEVICES: Final = 3
KILLS_A_ROUND: Final = scaled(25, otherwise=10)
#: 12 chunks: long enough to be killed between any two of them.
WEIGHTS_BYTES: Final = 12 * 64 * 1024
#: Seconds from a deployment to the first answer, about.
UPDATE_S: Final = 1.0
VICTIMS: Final = ("agent", "host", "broker")
PROBABILITIES: Final = (0.8, 0.1, 0.1)
#: A broker that forgets what was retained, and one that comes back with what it had a while ago.
BROKERS: Final = {"forgetful": brokers.OPEN, "stale": f"{brokers.OPEN}\npersistence true\nautosave_interval 2"}


@pytest.mark.parametrize("broker", BROKERS)
def test_killed_programs_leave_a_fleet_that_converges(tmp_path: Path, broker: str) -> None:
    """Half of the kills with a broker that forgets, half with one that remembers old things."""
    chance, ends, kills = campaign.chance(f"kills {broker}"), campaign.ends_at_s(), 0
    with fleet(tmp_path, devices=DEVICES, broker_config=BROKERS[broker]) as made:
        while kills < KILLS // len(BROKERS) or time.monotonic() < ends:
            version = publish(made, chance)
            made.deploy(version)
            for _ in range(KILLS_A_ROUND):
                kill_one(made, chance)
                kills += 1
            settle(made, version)
        version = publish(made, chance)
        made.deploy(version)
        made.converges(version)


def publish(made: Fleet, chance: np.random.Generator) -> str:
    """Publish the next version, with the publisher killed at random instants until it gets through."""
    version, path = made.bundle(weights_bytes=WEIGHTS_BYTES)
    while chance.random() < 0.5:
        command = ("-m", "edgeml", "publish", str(path), "--repo", str(made.repo))
        publisher = Forked(made.folder / "publish.log", *command)
        time.sleep(chance.uniform(0, 0.15))
        publisher.kill()
        campaign.count("SIGKILLs of the publisher")
    made.note(*repository.publish(made.repo, [path]))
    return version


def kill_one(made: Fleet, chance: np.random.Generator) -> None:
    """Kill a program at a random instant, check its files, and start it again."""
    time.sleep(chance.exponential(UPDATE_S / 2 / DEVICES))
    match chance.choice(VICTIMS, p=PROBABILITIES):
        case "agent":
            kill_agent(made, made.devices[chance.integers(DEVICES)], chance)
        case "host":
            assert made.host is not None
            made.host.kill()
            made.start_host()
            campaign.count("SIGKILLs of the origin")
        case "broker":
            made.broker.kill()
            time.sleep(chance.exponential(0.1))
            made.broker.start()
            campaign.count("SIGKILLs of the broker")
    keep_host(made)


def keep_host(made: Fleet) -> bool:
    """Start the host again as a service manager does: it gives up when the broker isn't there at its start."""
    if made.host is not None and not made.host.lives:
        made.start_host()
    return True


def kill_agent(made: Fleet, device: Device, chance: np.random.Generator) -> None:
    """Kill one agent; now and then before it has come up from the last kill, else it must have come up."""
    if chance.random() < 0.7:
        device.comes_up()
    device.kill()
    campaign.count("SIGKILLs of an agent")
    made.audit_disk(device)
    device.start()


def settle(made: Fleet, version: str) -> None:
    """Check that every device comes to the version, or to the one before where kills looked like a crash."""
    for device in made.devices:
        device.comes_up()
        until(
            lambda device=device: keep_host(made) and is_settled(device, version),
            f"{device.name} settles: {device.log}",
        )
        campaign.count("rollbacks since three kills look like a crashing model", device.is_crash_loop())
    made.audit()


def is_settled(device: Device, version: str) -> bool:
    """Whether the update to `version` is over."""
    record = device.record()
    return record["version"] == version and (record["state"] == "active" or device.is_crash_loop())
