"""Decide how the host answers what devices and rollouts report. Pure: no clock, no database.

    states, failed reports, rollouts, time ──▶ conditions ──▶ answers

A condition holds for a device or a rollout, and has a value. It is answered once, when it begins to hold or its value
changes. A caller records the conditions that were answered, so that a restart answers none of them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby, islice
from typing import Final

import msgspec

from edgeml.fleet.registry import DeviceMessage, Seen, column_text
from edgeml.fleet.rollouts.plan import ENDED, Phase, Rollout
from edgeml_core.messages import Report

#: Seconds without a connection after which a device is silent: a farm's boards are off at night.
SILENT_AFTER_S: Final = 86_400.0
#: Devices that a notice names.
NAMED_MAX: Final = 20
#: Models of one device whose drift is a condition: a device may make up names.
DRIFTING_MAX: Final = 16
#: Characters of a condition's subject and value: more than the id of a deployment has.
TEXT_MAX_CHARS: Final = 256
#: The code of an update whose comparison with the version before failed (`[serve] shadow`).
CANARY_CODE: Final = "shadow-disagreed"


class Event(StrEnum):
    """The kinds of conditions that a rule can answer."""

    ROLLOUT = "rollout"
    FAILED = "failed"
    CANARY = "canary"
    DRIFT_MODERATE = "drift-moderate"
    DRIFT_MAJOR = "drift-major"
    SILENT = "silent"


class Action(StrEnum):
    """The answers that a rule can give."""

    NOTIFY = "notify"
    PAUSE = "pause"
    COLLECT = "collect"


#: Actions that make sense for each event: a silent device can't be called, and a rollout pauses by itself.
POSSIBLE: Final = {
    Event.ROLLOUT: (Action.NOTIFY,),
    Event.FAILED: tuple(Action),
    Event.CANARY: tuple(Action),
    Event.DRIFT_MODERATE: tuple(Action),
    Event.DRIFT_MAJOR: tuple(Action),
    Event.SILENT: (Action.NOTIFY,),
}


class EventRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answers to one event. `after_s` is the time in seconds until a device counts as silent."""

    actions: tuple[Action, ...]
    after_s: float = SILENT_AFTER_S


Rules = Mapping[Event, EventRule]
#: The rules of a repository that has set none.
DEFAULT_RULES: Final[dict[Event, EventRule]] = {
    it: EventRule(actions=(Action.NOTIFY,)) for it in Event if it is not Event.DRIFT_MODERATE
}


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that holds now.

    Args:
        event: its kind.
        subject: the model, deployment or rollout; empty for a device alone.
        device: the device; empty for a rollout.
        value: another value is another occurrence.
        text: one sentence without the device.
        model: the model whose rollouts a rule may pause.
    """

    event: Event
    subject: str
    device: str
    value: str
    text: str
    model: str = ""

    def __post_init__(self) -> None:
        """Shorten what a device made up: a database that refuses it would record no condition of any device."""
        for field in ("subject", "value"):
            msgspec.structs.force_setattr(self, field, column_text(getattr(self, field), TEXT_MAX_CHARS))

    @property
    def key(self) -> str:
        """Return the name under which it is recorded; both grades of drift have one."""
        return f"{self.event.partition('-')[0]}:{self.subject}:{self.device}"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A message about conditions of one kind; `devices` names the first of `count`."""

    event: Event
    subject: str
    text: str
    devices: tuple[str, ...]
    count: int


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to one look at the fleet.

    Args:
        raised: conditions that are new, by key.
        cleared: keys of conditions that no longer hold.
        notices: messages to send.
        pauses: rollouts to pause, each with the reason.
        collects: devices whose log and checks to collect.
    """

    raised: dict[str, str]
    cleared: tuple[str, ...]
    notices: tuple[Notice, ...] = ()
    pauses: dict[str, str] = {}
    collects: tuple[str, ...] = ()


def conditions(
    states: Mapping[str, Seen],
    failed: Iterable[DeviceMessage],
    rollouts: Iterable[Rollout],
    rules: Rules,
    now_s: float,
) -> list[Condition]:
    """List the conditions that hold.

    Args:
        states: the last state of each device.
        failed: the reports of deployments that have ended badly.
        rollouts: all that are kept.
        rules: by event; `silent` has a time.
        now_s: seconds since 1970.
    """
    silence = rules.get(Event.SILENT)
    found = [it for device, seen in states.items() for it in _of_device(device, seen, silence, now_s)]
    found += [_of_report(it.device, it.message) for it in failed if isinstance(it.message, Report)]
    return found + [_of_rollout(it) for it in rollouts]


def decide(
    known: Mapping[str, str] | None, holding: Sequence[Condition], rules: Rules, rollouts: Iterable[Rollout]
) -> Answers:
    """Answer the conditions that are new.

    Args:
        known: the value of each recorded condition, by key; None at the first look, which answers nothing.
        holding: all conditions that hold.
        rules: by event.
        rollouts: those that may be paused.
    """
    now = {it.key: it for it in holding}
    raised = [it for it in now.values() if known is None or known.get(it.key) != it.value]
    values = {it.key: it.value for it in raised}
    cleared = tuple(sorted(set(known or ()) - now.keys()))
    if known is None:
        return Answers(raised=values, cleared=())

    def wanting(action: Action) -> list[Condition]:
        return [it for it in raised if it.event in rules and action in rules[it.event].actions]

    running = [it for it in rollouts if it.phase not in ENDED and it.phase is not Phase.PAUSED]
    return Answers(
        raised=values,
        cleared=cleared,
        notices=tuple(_notices(wanting(Action.NOTIFY))),
        pauses=_pauses(wanting(Action.PAUSE), running),
        collects=tuple(sorted({it.device for it in wanting(Action.COLLECT) if it.device})),
    )


def _of_device(device: str, seen: Seen, silence: EventRule | None, now_s: float) -> Iterator[Condition]:
    state = seen.state
    if silence is not None and not state.online and now_s - seen.seen_s >= silence.after_s:
        text = f"no connection for {silence.after_s:g} s or more"
        yield Condition(event=Event.SILENT, subject="", device=device, value="silent", text=text)
    if state.code:
        text = f"the fleet's signed files are refused: {state.code}"
        yield Condition(event=Event.FAILED, subject="signed files", device=device, value=state.code, text=text)
    drifts = ((name, it.version, it.drift.grade) for name, it in state.models.items() if it.drift is not None)
    drifting = (it for it in drifts if it[-1] != "ok")
    for name, version, grade in islice(drifting, DRIFTING_MAX):
        event = Event.DRIFT_MAJOR if grade == "major" else Event.DRIFT_MODERATE
        value, text = f"{version} {grade}", f"{name} {version} drifts: {grade}"
        yield Condition(event=event, subject=name, device=device, value=value, text=text, model=name)


def _of_report(device: str, report: Report) -> Condition:
    event = Event.CANARY if report.code == CANARY_CODE else Event.FAILED
    return Condition(
        event=event,
        subject=report.deployment,
        device=device,
        value=f"{report.state} {report.code}",
        text=f"{report.name} {report.version} was {report.state}: {report.code}",
        model=report.name,
    )


def _of_rollout(rollout: Rollout) -> Condition:
    is_running = rollout.phase is Phase.RUNNING
    text = f"rollout {rollout.id}: {rollout.phase}, wave {rollout.wave + 1} of {len(rollout.plan.waves)}"
    return Condition(
        event=Event.ROLLOUT,
        subject=rollout.id,
        device="",
        value=f"{rollout.phase} {rollout.wave if is_running else ''}".strip(),
        text=text if is_running or not rollout.reason else f"{text}: {rollout.reason}",
    )


def _notices(found: Sequence[Condition]) -> Iterator[Notice]:
    """Join conditions of one kind about one subject: a site without power is one message."""

    def kind(it: Condition) -> tuple[str, str, str]:
        return it.event, it.subject, it.text

    for _, group in groupby(sorted(found, key=lambda it: (*kind(it), it.device)), kind):
        members = list(group)
        first, devices = members[0], tuple(it.device for it in members if it.device)
        named = ", ".join(devices[:NAMED_MAX])
        more = f" and {len(devices) - NAMED_MAX} more" if len(devices) > NAMED_MAX else ""
        yield Notice(
            event=first.event,
            subject=first.subject,
            text=f"{named}{more}: {first.text}" if devices else first.text,
            devices=devices[:NAMED_MAX],
            count=len(devices),
        )


def _pauses(found: Iterable[Condition], running: Sequence[Rollout]) -> dict[str, str]:
    """Return the rollouts to pause: drift pauses all of its model, a failure the one of its deployment."""
    pauses: dict[str, str] = {}
    for it in found:
        is_drift = it.event in {Event.DRIFT_MODERATE, Event.DRIFT_MAJOR}
        for rollout in running:
            if (rollout.deployment.name == it.model) if is_drift else (rollout.id == it.subject):
                pauses.setdefault(rollout.id, f"by the rule for {it.event}: {it.device}: {it.text}")
    return pauses
