"""A cable is pulled: nothing comes, nothing is refused, no connection ends. The device must notice by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from faults import campaign
from faults.fleet import fleet, until
from faults.mitm import LinkFaults

#: Minutes of waiting for keepalives.
pytestmark = pytest.mark.nightly

WEIGHTS_BYTES: Final = 20 * 64 * 1024
#: A silent connection is given up after one and a half keepalives of 30 s, and what MQTT's client adds.
NOTICED_S: Final = 100.0


def test_a_connection_that_died_without_a_word(tmp_path: Path) -> None:
    """In the midst of an update; the device serves meanwhile, and the update arrives over the next connection."""
    with fleet(tmp_path, through_mitm=True) as made:
        assert made.mitm is not None
        version = made.release(weights_bytes=WEIGHTS_BYTES)
        since = len(made.device.log.read_text())
        made.mitm.line = LinkFaults(is_dead=True)
        made.deploy(version)
        until(lambda: "disconnected" in made.device.log.read_text()[since:], "the agent notices", NOTICED_S)
        made.mitm.line = LinkFaults()
        made.converges(version)
        campaign.count("bad roads that an update came over")
