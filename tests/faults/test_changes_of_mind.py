"""The operator changes his mind in the midst of updates: the last wish holds, and nothing else is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from faults import campaign
from faults.world import answer_of, until, world

WEIGHTS_BYTES: Final = 30 * 64 * 1024
CHANGES: Final = 12
COMMAND_TIMEOUT_S: Final = 60.0


def test_versions_in_quick_succession(tmp_path: Path) -> None:
    """Each wish comes at a random instant of the update before; the last one arrives on every device."""
    chance = campaign.chance("succession")
    with world(tmp_path, devices=2) as made:
        versions = [made.release(weights_bytes=WEIGHTS_BYTES) for _ in range(3)]
        for _ in range(CHANGES):
            made.deploy(version := versions[chance.integers(len(versions))])
            time.sleep(chance.exponential(0.7))
            campaign.count("wishes changed in mid-update")
        made.converges(version)
        until(lambda: all(device.record()["state"] == "active" for device in made.devices), "the updates are over")


def test_a_rollback_during_a_fetch(tmp_path: Path) -> None:
    """The version before answers at once; the update under way goes on, and comes to its end."""
    with world(tmp_path) as made:
        made.deploy(second := made.release(weights_bytes=WEIGHTS_BYTES))
        made.converges(second)
        until(lambda: made.device.record()["state"] == "active", "the update is over")
        made.deploy(third := made.release(weights_bytes=4 * WEIGHTS_BYTES))
        until(lambda: made.device.record()["state"] == "fetching", "the fetch has begun")
        roll_back(made.device.config)
        until(lambda: made.device.traffic.answer in (answer_of("1.0"), answer_of(third)), "it is rolled back")
        made.converges(third)
        campaign.count("rollbacks in mid-update")


def roll_back(config: Path) -> None:
    """`edgeml-agent rollback`, beside the running agent."""
    command = [sys.executable, "-m", "edgeml_agent", "rollback", "tiny", "--config", str(config)]
    subprocess.run(command, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S)
