"""Deployments change during updates: the last one holds, and no other version is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from faults import campaign
from faults.attacked_fleet import TOPICS
from faults.fleet import answer_of, fleet, until
from faults.mitm import honest

CHUNK: Final = TOPICS.chunk("")
WEIGHTS_BYTES: Final = 30 * 64 * 1024
CHANGES: Final = 12
COMMAND_TIMEOUT_S: Final = 60.0


def test_deployments_in_quick_succession_end_with_the_last(tmp_path: Path) -> None:
    """Each deployment comes at a random instant of the update before; the last one arrives on every device."""
    chance = campaign.chance("succession")
    with fleet(tmp_path, devices=2) as made:
        versions = [made.release(weights_bytes=WEIGHTS_BYTES) for _ in range(3)]
        for _ in range(CHANGES):
            made.deploy(version := versions[chance.integers(len(versions))])
            time.sleep(chance.exponential(0.7))
            campaign.count("deployments changed during an update")
        made.converges(version)
        until(lambda: all(device.record()["state"] == "active" for device in made.devices), "the updates are over")


def test_rollback_during_a_fetch_serves_the_version_before(tmp_path: Path) -> None:
    """The version before answers at once; the update continues to its end, which its chunks can't reach before."""
    with fleet(tmp_path, through_mitm=True) as made:
        assert made.mitm is not None
        made.deploy(second := made.release(weights_bytes=WEIGHTS_BYTES))
        made.converges(second)
        until(lambda: made.device.record()["state"] == "active", "the update is over")
        made.mitm.meddle = lambda frame: [] if frame.topic.startswith(CHUNK) else [frame]
        made.deploy(third := made.release(weights_bytes=WEIGHTS_BYTES))
        until(lambda: made.device.record()["state"] == "fetching", "the fetch has begun")
        roll_back(made.device.config)
        until(lambda: made.device.traffic.answer == answer_of("1.0"), "it is rolled back")
        made.mitm.meddle = honest
        made.converges(third)
        campaign.count("rollbacks during an update")


def roll_back(config: Path) -> None:
    """`edgeml-agent rollback`, beside the running agent."""
    command = [sys.executable, "-m", "edgeml_agent", "rollback", "tiny", "--config", str(config)]
    subprocess.run(command, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S)
