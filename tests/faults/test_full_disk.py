"""The disk of a device is full: it says so, goes on serving, also after a restart, and is well with room again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from faults import campaign
from faults.disk import fill, make_read_only, make_writable
from faults.fleet import fleet, until

WEIGHTS_BYTES: Final = 4 * 1024**2
CODES: Final = ('code="disk-full"', 'code="store-failed"')

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a filesystem to fill")


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
