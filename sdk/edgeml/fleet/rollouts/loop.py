"""The task of `edgeml fleet serve` that steers rollouts, on the host that leads."""

from __future__ import annotations

import asyncio
import time
from typing import Final, NoReturn

from edgeml.fleet.leadership import Leadership
from edgeml.fleet.recorder import Events
from edgeml.fleet.registry import Registry
from edgeml.fleet.rollouts.controller import Begin
from edgeml.fleet.rollouts.steering import Steering
from edgeml.repository import RepositoryFolder, layout
from edgeml_core.errors import EdgemlError

#: Seconds between two turns: an abort is signed within them.
TURN_EVERY_S: Final = 1.0
#: Fraction of the time in which turns may run: reading 100,000 devices takes a second or more.
BUSY_MAX: Final = 0.1


async def run(repository: RepositoryFolder, registry: Registry, leadership: Leadership, events: Events) -> NoReturn:
    """Take turns while this host leads, until cancelled. A turn that fails is reported once and repeated."""
    steering, reported = Steering(repository, registry, leadership.check), ""
    while True:
        await leadership.until(is_leader=True)
        began_s = time.monotonic()
        try:
            await asyncio.to_thread(_turn, steering, events)
            reported = ""
        except EdgemlError as error:
            if error.code != "not-leader" and error.message != reported:
                events.event("rollout-failed", f"not all rollouts are steered: {error.message}", **error.to_dict())
            reported = error.message
        await asyncio.sleep(max(TURN_EVERY_S, (time.monotonic() - began_s) * (1 / BUSY_MAX - 1)))


def _turn(steering: Steering, events: Events) -> None:
    for rollout, decision in steering.turn(layout.utc_now()):
        text = f"rollout {rollout.id}: {rollout.phase}, wave {rollout.wave + 1} of {len(rollout.plan.waves)}"
        reason = f": {rollout.reason}" if rollout.reason else ""
        fields = {"percent": decision.percent} if isinstance(decision, Begin) else {}
        events.event(
            "rollout",
            f"{text}{reason}",
            rollout=rollout.id,
            decision=type(decision).__name__.lower(),
            phase=rollout.phase,
            wave=rollout.wave,
            reason=rollout.reason,
            **fields,
        )
