"""The bytes that fifty devices of one site cost the network behind a relay, beside those of one device alone.

Brokers, host and relay are real processes. The devices are the agent's shell, link, trust and files in this process.
Every byte of TCP on the way to the fleet's broker counts: of a whole release, and of an update of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from delivery_parts import updates
from harness import host
from harness.figures import Figure, Run, most
from support.relayed_site import relayed_site, update_all, update_one

#: Devices of the site, full and quick.
DEVICES: Final = 50
QUICK_DEVICES: Final = 2
AIM: Final = most(1.05)


def figures(run: Run) -> Iterator[Figure]:
    """Yield the ratio for a whole release and for an update."""
    bundles, devices = updates.bundles(run), run.size(DEVICES, QUICK_DEVICES)
    with relayed_site(run.folder / "relay", devices) as site:
        for version, name in ((updates.BASE, "a whole release"), (updates.LATER, "an update")):
            site.publish(bundles[version])
            with host.watching() as watch:
                one = asyncio.run(update_one(site, version))
                all_of_them = asyncio.run(update_all(site, version))
            yield Figure(
                name=f"bytes of {devices} devices behind a relay against one device, {name}",
                value=all_of_them / one,
                unit="x",
                sides={"one device": one, f"{devices} devices": all_of_them},
                sides_unit="bytes",
                host=watch.load,
                aim=AIM,
            )
