"""The plan of a rollout as the operator gives it, and how far the rollout is. Values only; `controller` decides."""

from __future__ import annotations

from datetime import UTC, tzinfo
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from edgeml_core import daily_window
from edgeml_core.desired import HASH_STEPS, Deployment
from edgeml_core.errors import UsageError

#: Waves of a rollout: a person plans a few.
WAVES_MAX: Final = 20
#: Seconds that the devices of a wave serve the new version before the next one begins.
SOAK_S: Final = 600.0
#: Percent of a wave's devices that may fail.
ABORT_ABOVE: Final = 2.0
#: Devices that must have ended before their share of failures counts: the first to report are no fair sample.
SAMPLE_MIN: Final = 10
#: Seconds that a wave waits for devices without an outcome: a day sees each device that is on for a part of it.
WAIT_S: Final = 86_400.0
#: Fraction of a wave's devices that must serve the version when the wait is over: silence is no success.
ENOUGH: Final = 0.5
#: Failed devices that an ended rollout keeps: a list of all rollouts stays short.
FAILED_KEPT_MAX: Final = 100
#: The hint for a time zone that isn't known.
ZONE_HINT: Final = "use UTC or a name like Europe/Berlin, and install the package tzdata where it is missing"
#: Grades of drift, the mildest first.
DRIFT_GRADES: Final = ("moderate", "major")


class Phase(StrEnum):
    """How far a rollout is."""

    RUNNING = "running"
    PAUSED = "paused"
    AWAITING = "awaiting approval"
    COMPLETED = "completed"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled back"


#: Phases that no decision of the controller leaves.
ENDED: Final = frozenset({Phase.COMPLETED, Phase.ABORTED, Phase.ROLLED_BACK})


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stages of a rollout and the conditions to go on.

    Args:
        waves: percent of the selected devices that have the version after each wave; each more than the one before.
        soak_s: seconds between the last outcome of a wave and the next wave.
        abort_above: percent of devices that may fail, of a wave and of all so far.
        sample_min: devices that must have ended before that share counts, where the wave has more.
        wait_s: seconds that a wave waits for devices without an outcome.
        approve: every wave but the first waits for the operator.
        drift: the grade from which drift counts as a failure; empty counts none.
        slower: how many times as long as with its version before a device may take for a run; 0 takes any time.
        window: the hours in which a wave may begin, as 22:00-05:00; empty is always.
        zone: the time zone of the window.
    """

    waves: tuple[float, ...]
    soak_s: float = SOAK_S
    abort_above: float = ABORT_ABOVE
    sample_min: int = SAMPLE_MIN
    wait_s: float = WAIT_S
    approve: bool = False
    drift: str = ""
    slower: float = 0.0
    window: str = ""
    zone: str = "UTC"

    def opens_at(self, now_s: float) -> float | None:
        """Return when a wave may begin, in seconds since 1970: `now_s` if it may now; None in an unknown zone."""
        if not self.window:
            return now_s
        zone = _zone(self.zone)
        return None if zone is None else daily_window.parse(self.window).opens_at(now_s, zone)


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollout and its progress. Its id is the deployment's.

    Args:
        deployment: the one to sign; `percent` of this rollout counts instead of its own.
        wave: index of the wave that has begun last; -1 before the first.
        percent: the share that is signed now.
        percent_before: the share before the newest wave.
        began_s: when that wave began, in seconds since 1970.
        soaks_from_s: since when it soaks; 0 while devices have yet to end.
        approved: waves that may begin without a further approval.
        reason: why the rollout is in its phase.
        replaced: deployments that the completed one took the place of; a rollback signs them again.
        failed: devices that had failed when it was aborted or rolled back, each with its code.
        is_open: the controller still looks at it: until the document follows the last decision.
    """

    deployment: Deployment
    plan: Plan
    phase: Phase = Phase.RUNNING
    wave: int = -1
    percent: float = 0.0
    percent_before: float = 0.0
    began_s: float = 0.0
    soaks_from_s: float = 0.0
    approved: Annotated[int, msgspec.Meta(ge=1)] = 1
    reason: str = ""
    replaced: tuple[Deployment, ...] = ()
    failed: dict[str, str] = {}
    is_open: bool = True

    @property
    def id(self) -> str:
        """The deployment's id."""
        return self.deployment.id

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return {"id": self.id, **msgspec.to_builtins(self)}

    @property
    def is_last_wave(self) -> bool:
        """Whether no wave is left to begin."""
        return self.wave == len(self.plan.waves) - 1


def check(plan: Plan) -> Plan:
    """Return a plan whose values make sense.

    Raises:
        UsageError: `usage`, with the first value that doesn't.
    """
    step = 100 / HASH_STEPS
    faults = (
        (not 0 < len(plan.waves) <= WAVES_MAX, f"{len(plan.waves)} waves", f"give 1 to {WAVES_MAX}, as 5%,25%,100%"),
        (not all(step <= it <= 100 for it in plan.waves), "a wave outside of 0 to 100 %", f"give at least {step:g} %"),
        (any(a >= b for a, b in pairwise(plan.waves)), "waves that don't grow", "write them like 5%,25%,100%"),
        (not 0 <= plan.abort_above <= 100, f"abort above {plan.abort_above:g} %", "give 0 % to 100 %"),
        (plan.soak_s < 0 or plan.wait_s <= 0, "a time below 0", "write times like 10m, 2h or 1d"),
        (plan.sample_min < 1, f"a sample of {plan.sample_min} devices", "give at least 1"),
        (plan.drift not in {"", *DRIFT_GRADES}, f"the drift grade {plan.drift!r}", f"use {' or '.join(DRIFT_GRADES)}"),
        (plan.slower != 0 and plan.slower <= 1, f"slower than {plan.slower:g} times", "give more than 1, as 1.5"),
        (bool(plan.window) and not _is_window(plan.window), f"the hours {plan.window!r}", "use 22:00-05:00"),
        (bool(plan.window) and _zone(plan.zone) is None, f"the time zone {plan.zone!r}", ZONE_HINT),
    )
    for is_wrong, found, hint in faults:
        if is_wrong:
            raise UsageError("usage", f"the rollout has {found}", hint)
    return plan


def _is_window(text: str) -> bool:
    try:
        daily_window.parse(text)
    except ValueError:
        return False
    return True


def _zone(name: str) -> tzinfo | None:
    """Return a time zone; None if this machine has none of that name. UTC needs no database of time zones."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, ZoneInfoNotFoundError, OSError):  # the name of a folder is an OSError
        return None
