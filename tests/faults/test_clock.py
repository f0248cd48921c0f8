"""A device's clock is decades off. It goes on serving, is fooled into nothing, and is well once the clock is right."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from faults import campaign
from faults.fleet import fleet, until

YEAR_S: Final = 365.25 * 24 * 3600


def test_in_1970_a_device_takes_what_is_signed_now(tmp_path: Path) -> None:
    """A board without a battery comes up at the epoch: it installs, and what was signed is its clock."""
    with fleet(tmp_path) as made:
        made.device.restart(clock_s=-time.time())
        made.device.comes_up()
        made.deploy(version := made.release())
        made.converges(version)
        campaign.count("wrong clocks")


@pytest.mark.parametrize("year", [2100, 2038])
def test_in_the_far_future_a_device_installs_nothing_and_serves(tmp_path: Path, year: int) -> None:
    """All that is signed has expired: refused, and taken when the clock is right again."""
    with fleet(tmp_path) as made:
        answer = made.device.traffic.answer
        since = len(made.device.log.read_text())
        made.device.restart(clock_s=(year - 1970) * YEAR_S - time.time())
        made.device.comes_up()
        made.deploy(version := made.release())
        until(lambda: 'code="trust-expired"' in made.device.log.read_text()[since:], "expired metadata is refused")
        assert made.device.traffic.answer == answer
        made.device.restart()
        made.device.comes_up()
        made.converges(version)
        campaign.count("wrong clocks")
