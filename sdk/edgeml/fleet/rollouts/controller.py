"""The controller of a rollout: which decision follows from what devices have reported. Pure: no clock, no database.

    document, records of devices, rollout, time ──▶ decision ──▶ rollout ──▶ document

`decide` gives one decision, `apply` the rollout after it, and `follow` the document that the rollout asks for. The same
inputs give the same decision. A caller records the rollout before it signs the document. After a crash between the two
it calls `follow` again.

Rules, in this order:

1. An ended rollout stays as it is.
2. Too many failures abort it, also while it is paused. Failures count in the newest wave and in all waves together.
3. A paused rollout waits for the operator.
4. A wave soaks when all its devices have ended. After `wait_s` the others no longer hold it, if enough devices serve
   the version; else the rollout pauses. Silence is never a success.
5. After the soak the next wave begins: within the plan's hours, and where approval is required, after it. A rollout
   pauses on a host that doesn't know the hours' time zone.
6. After the soak of the last wave the rollout is complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from edgeml.fleet.rollouts.outcomes import DeviceOutcome, Observed, Outcome, outcomes
from edgeml.fleet.rollouts.plan import ENDED, ENOUGH, Phase, Rollout
from edgeml_core.desired import HASH_STEPS, FleetDocument

#: Failed devices that a reason names.
NAMED_MAX: Final = 5


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Begin a wave: the deployment reaches `percent`."""

    wave: int
    percent: float


class Soak(msgspec.Struct, frozen=True, tag=True):
    """All devices of the wave that it waits for have ended: wait for the soak time."""

    reason: str


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Wait for the operator's approval of the next wave."""

    reason: str


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Wait for the operator: the wave's devices don't tell enough, or the host can't tell the hours."""

    reason: str


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Take the deployment out of the document: the one before holds again."""

    reason: str


class Complete(msgspec.Struct, frozen=True, tag=True):
    """Keep the deployment alone."""

    reason: str


Decision: TypeAlias = Begin | Soak | Ask | Pause | Abort | Complete


def decide(document: FleetDocument, observed: Observed, rollout: Rollout, now_s: float) -> Decision | None:
    """Return the next decision about a rollout; None while there is nothing to do.

    Args:
        document: the signed fleet document.
        observed: what the registry has about the devices.
        rollout: as it was recorded last.
        now_s: seconds since 1970.
    """
    if rollout.phase in ENDED:
        return None
    reached = outcomes(rollout, document, observed)
    so_far = begun(rollout, reached)
    newest = [it for it in so_far if it.place >= _steps(rollout.percent_before)]
    for group, name in ((newest, f"wave {rollout.wave + 1}"), (so_far, "all waves")):
        if reason := _excess(rollout, group, name):
            return Abort(reason)
    if rollout.phase is Phase.PAUSED:
        return None
    if rollout.wave >= 0 and not rollout.soaks_from_s:
        return _end_of_wave(rollout, newest, now_s) if so_far else _without_devices(rollout, now_s)
    if rollout.wave >= 0 and now_s < rollout.soaks_from_s + rollout.plan.soak_s:
        return None
    return Complete(_counts(so_far)) if rollout.is_last_wave else _after_soak(rollout, reached, newest, now_s)


def begun(rollout: Rollout, reached: Sequence[DeviceOutcome]) -> list[DeviceOutcome]:
    """Return the devices of the waves that have begun."""
    return [it for it in reached if it.place < _steps(rollout.percent)]


def apply(rollout: Rollout, decision: Decision, now_s: float) -> Rollout:
    """Return the rollout after a decision that was made at `now_s`."""
    changes: dict[str, object]
    match decision:
        case Begin(wave, percent):
            changes = {
                "phase": Phase.RUNNING,
                "wave": wave,
                "percent": percent,
                "percent_before": rollout.percent,
                "began_s": now_s,
                "soaks_from_s": 0.0,
                "reason": "",
            }
        case Soak(reason):
            changes = {"soaks_from_s": now_s, "reason": reason}
        case Ask(reason):
            changes = {"phase": Phase.AWAITING, "reason": reason}
        case Pause(reason):
            changes = {"phase": Phase.PAUSED, "reason": reason}
        case Abort(reason):
            changes = {"phase": Phase.ABORTED, "reason": reason}
        case Complete(reason):
            changes = {"phase": Phase.COMPLETED, "reason": reason}
    return msgspec.structs.replace(rollout, **changes)


def share(reached: Sequence[DeviceOutcome], percent: float) -> float:
    """Return the percentage to sign, so that a wave has its share of the devices as they are: one at least.

    The first places of the deployment's order are taken. Devices with the same place go together.

    Args:
        reached: the devices of the whole rollout in the order of their places.
        percent: the wave's, of these devices.
    """
    if percent >= 100 or not reached:
        return percent
    devices = max(1, math.floor(len(reached) * percent / 100 + 1e-9))
    places = [it.place for it in reached]
    end = places[devices - 1] + 1
    if devices < len(places) and places[devices] < end and places[0] < end - 1:
        end -= 1
    return end * 100 / HASH_STEPS


def _after_soak(
    rollout: Rollout, reached: Sequence[DeviceOutcome], newest: Sequence[DeviceOutcome], now_s: float
) -> Begin | Ask | Pause | None:
    """Begin the next wave, if it is approved and the plan's hours permit it."""
    if rollout.plan.approve and rollout.wave + 1 >= rollout.approved:
        return Ask(_counts(newest)) if rollout.phase is Phase.RUNNING else None
    opens_s = rollout.plan.opens_at(now_s)
    if opens_s is None:
        return Pause(f"the leading host doesn't know the time zone {rollout.plan.zone!r}: install tzdata there")
    return None if opens_s > now_s else _next_wave(rollout, reached)


def _next_wave(rollout: Rollout, reached: Sequence[DeviceOutcome]) -> Begin:
    """Begin the next wave that adds a device; the last one in any case."""
    waves = rollout.plan.waves
    for wave in range(rollout.wave + 1, len(waves)):
        percent = max(rollout.percent, share(reached, waves[wave]))
        added = [it for it in reached if _steps(rollout.percent) <= it.place < _steps(percent)]
        if added or not reached or wave == len(waves) - 1:
            return Begin(wave, percent)
    raise AssertionError("the caller asks for a wave that exists")


def _end_of_wave(rollout: Rollout, newest: Sequence[DeviceOutcome], now_s: float) -> Soak | Pause | None:
    open_devices = [it for it in newest if it.outcome in {Outcome.UNDER_WAY, Outcome.SILENT}]
    good = sum(it.outcome is Outcome.SUCCEEDED for it in newest)
    if not open_devices:
        return Soak(_counts(newest))
    if now_s < rollout.began_s + rollout.plan.wait_s:
        return None
    if good and good >= ENOUGH * len(newest):
        return Soak(_counts(newest))
    return Pause(f"too few devices serve it after {rollout.plan.wait_s:g} s: {_counts(newest)}")


def _without_devices(rollout: Rollout, now_s: float) -> Pause | None:
    """Pause a rollout that no device has joined in time: nothing is known about the version."""
    is_over = now_s >= rollout.began_s + rollout.plan.wait_s
    return Pause(f"no device matched within {rollout.plan.wait_s:g} s") if is_over else None


def _excess(rollout: Rollout, group: Sequence[DeviceOutcome], name: str) -> str:
    """Return why the failures of a group abort the rollout; empty if they don't.

    They count once the sample is large enough, or once they are too many even if all other devices succeed.
    """
    limit, failed = rollout.plan.abort_above, [it for it in group if it.outcome is Outcome.FAILED]
    ended = len(failed) + sum(it.outcome is Outcome.SUCCEEDED for it in group)
    is_sample = ended >= rollout.plan.sample_min and len(failed) * 100 > limit * ended
    if not is_sample and len(failed) * 100 <= limit * len(group):
        return ""
    named = ", ".join(f"{it.device} {it.code}".strip() for it in failed[:NAMED_MAX])
    more = f" and {len(failed) - NAMED_MAX} more" if len(failed) > NAMED_MAX else ""
    return f"{len(failed)} of {ended} ended devices of {name} failed, limit {limit:g} %: {named}{more}"


def _counts(group: Sequence[DeviceOutcome]) -> str:
    """Count a group's outcomes in words."""
    counts = {outcome: sum(it.outcome is outcome for it in group) for outcome in Outcome}
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no device"


def _steps(percent: float) -> int:
    """Return the number of places below a percentage."""
    return round(percent * HASH_STEPS / 100)
