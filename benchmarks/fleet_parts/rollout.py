"""Two rollouts in three waves, to devices of which a part is behind links that are slow and break.

The first version fails on half of the boards: the controller must stop it in its first wave, and no other device may
see it.
The second fails on a few boards, fewer than the controller permits: it must arrive on all others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from edgeml.fleet.fleet import Fleet
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan, Rollout
from edgeml.repository import opened
from edgeml_core import desired
from fleet_parts.device import Boards
from fleet_parts.site import MODEL, TIMEOUT_S, VERSIONS, Site, site
from harness import host
from harness.figures import Figure, Run, most

DEVICES: Final = 200
QUICK_DEVICES: Final = 30
WAVES: Final = (10, 50, 100)
BAD_LINKS: Final = 0.2
#: Fractions of the boards that fail each version.
FAILING: Final = {VERSIONS[1]: 0.5, VERSIONS[2]: 0.02}
ABORT_ABOVE: Final = 15.0
SOAK_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.2


def figures(run: Run) -> Iterator[Figure]:
    """Yield the figures of both rollouts; a rollout that ends otherwise raises."""
    devices = run.size(DEVICES, QUICK_DEVICES)
    first, bad, good = VERSIONS
    with host.watching() as watch:
        with site(run.folder / "rollout", devices, Boards(failing=FAILING), bad_links=BAD_LINKS) as running:
            swarm = running.swarm
            running.wait(lambda: swarm.serving(first) == devices, "the first version everywhere")
            aborted, stopped_s = _roll_out(running, bad)
            back_s = time.monotonic()
            running.wait(lambda: swarm.serving(first) == devices, "the way back")
            back_s = time.monotonic() - back_s
            completed, arrived_s = _roll_out(running, good)
            opened(running.repo).check_audit()
        repeated = swarm.errors.total()
    if (aborted.phase, completed.phase) != (Phase.ABORTED, Phase.COMPLETED):
        raise RuntimeError(f"the rollouts ended as {aborted.phase} and {completed.phase}: {completed.reason}")
    wave = set(sorted(running.names, key=lambda it: desired.place(aborted.deployment, it))[: devices * WAVES[0] // 100])
    reached = swarm.began(bad)
    yield Figure(
        name="rollout of a bad version: devices outside its first wave that began it",
        value=len(reached - wave),
        host=watch.load,
        aim=most(0),
        note=f"{len(reached)} of {devices} devices began it, all in wave {aborted.wave + 1}",
    )
    yield Figure(
        name="rollout of a bad version: from its abort until all devices serve the old one",
        value=back_s,
        unit="s",
        host=watch.load,
    )
    yield Figure(name="rollout of a bad version: until its abort", value=stopped_s, unit="s", host=watch.load)
    yield Figure(
        name=f"rollout of a good version to {devices} devices in three waves",
        value=arrived_s,
        unit="s",
        host=watch.load,
        note=f"{SOAK_S:.0f} s of soaking each; {swarm.serving(good)} serve it; {repeated} steps were repeated",
    )


def _roll_out(running: Site, version: str) -> tuple[Rollout, float]:
    """Roll a version out, and return the rollout at its end and the seconds that it took."""
    fleet, begun_s = Fleet(running.repo), time.monotonic()
    plan = Plan(waves=WAVES, soak_s=SOAK_S, abort_above=ABORT_ABOVE)
    rollout = fleet.roll_out(MODEL, version, plan=plan)
    while rollout.phase not in ENDED:
        if time.monotonic() - begun_s > TIMEOUT_S:
            raise RuntimeError(f"the rollout of {version} is still in phase {rollout.phase} after {TIMEOUT_S} s")
        time.sleep(_LOOK_EVERY_S)
        rollout, _ = fleet.rollout(rollout.id)
    return rollout, time.monotonic() - begun_s
