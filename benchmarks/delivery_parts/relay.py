"""What fifty devices of one site cost the network behind a relay, beside what one device costs alone.

Brokers, host and relay are real processes, the devices the agent's real shell, link, trust and files in one. Every
byte of TCP on the way to the fleet's broker counts: of a whole release, and of an update of it after really retraining.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from delivery_parts import models as trained
from support.relayed_site import relayed_site, update_all, update_one

DEVICES: Final = 50
MOST: Final = 1.05


def run(folder: Path, models: Path) -> None:
    """Print both."""
    models.mkdir(parents=True, exist_ok=True)
    bundles = trained.make(models)
    with relayed_site(folder / "relay", DEVICES) as site:
        for version, name in (("1", "a whole release"), ("2", "an update of it")):
            site.publish(bundles[version])
            one = asyncio.run(update_one(site, version))
            all_of_them = asyncio.run(update_all(site, version))
            ratio = all_of_them / one
            print(f"{name}: one device {one:,} bytes, {DEVICES} behind a relay {all_of_them:,}: {ratio:.3f}")
            print(f"  asked for: at most {MOST}  {'met' if ratio <= MOST else 'MISSED'}")
