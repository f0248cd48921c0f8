"""The disk of a device is full or fails: it says so, goes on serving, also after a restart, and is well later."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from faults import campaign
from faults.disk import fail, fill, make_read_only, make_writable, needs_root, repair
from faults.fleet import Fleet, fleet, until
from support.scale import scaled

WEIGHTS_BYTES: Final = 4 * 1024**2
#: Updates during which the disk fails, each at another point.
FAILURES: Final = scaled(200, 2)
#: Seconds that an update takes.
UPDATE_S: Final = 3.0
#: Seconds for which the device is asked after the fault.
ASKED_S: Final = 1.0
CODES: Final = ('code="disk-full"', 'code="store-failed"')


@needs_root
@pytest.mark.parametrize("restarted", [False, True], ids=["running", "killed"])
def test_a_real_filesystem_without_a_free_block(tmp_path: Path, restarted: bool) -> None:
    """Another program takes the last block; the agent is killed meanwhile, or not."""
    with fleet(tmp_path, small_disk=True) as made:
        answer, since = made.device.traffic.answer, len(made.device.log.read_text())
        runaway = fill(made.device.store)
        if restarted:
            made.device.kill()
            made.device.start()
            made.device.comes_up()
        made.deploy(version := made.release(weights_bytes=WEIGHTS_BYTES))
        until(lambda: any(code in made.device.log.read_text()[since:] for code in CODES), "it says that it is full")
        assert made.device.traffic.answer == answer
        runaway.unlink()
        made.deploy(version)
        made.converges(version)
        campaign.count("full filesystems")


@needs_root
@pytest.mark.parametrize("ended", ["stopped", "killed"])
def test_a_filesystem_that_was_remounted_read_only(tmp_path: Path, ended: str) -> None:
    """The usual end of an SD card: the agent starts and serves on it, and updates wait for one that can be written."""
    with fleet(tmp_path, small_disk=True) as made:
        answer = made.device.traffic.answer
        made.device.kill() if ended == "killed" else made.device.stop()
        make_read_only(made.device.store)
        made.device.start()
        made.device.comes_up()
        since = len(made.device.log.read_text())
        made.deploy(version := made.release(weights_bytes=WEIGHTS_BYTES))
        until(lambda: 'code="store-failed"' in made.device.log.read_text()[since:], "it says that it can't store")
        assert made.device.traffic.answer == answer
        make_writable(made.device.store)
        made.device.restart()
        made.converges(version)
        campaign.count("read-only filesystems")


@needs_root
def test_a_disk_that_fails_at_any_point_of_an_update_or_at_the_start(tmp_path: Path) -> None:
    """It fills at a random write, or turns read-only at a random time. Every third agent starts on it."""
    choice = campaign.chance("failing disks")
    with fleet(tmp_path, small_disk=True) as made:
        device = made.device
        for number in range(FAILURES):
            is_error = bool(number % 2)
            version = made.release(weights_bytes=WEIGHTS_BYTES)
            if not is_error:
                fill(device.store, free_bytes=int(choice.integers(2 * WEIGHTS_BYTES)))
            made.deploy(version)
            time.sleep(choice.uniform(0.0, UPDATE_S))
            if is_error:
                fail(device.store)
            if number % 3 == 0:
                device.kill()
                device.start()
                device.comes_up()
            goes_on_serving(made)
            device.kill()
            repair(device.store) if is_error else (device.store / "runaway.log").unlink()
            device.start()
            made.converges(version)
            campaign.count("disks that failed during an update")


def goes_on_serving(made: Fleet) -> None:
    """Check that requests sent from now on are answered; the campaign counts those that are lost."""
    asked = made.device.traffic.asked
    time.sleep(ASKED_S)
    until(lambda: made.device.traffic.asked > asked, "more answers")
