"""Rules: one row for each condition and answer, and a condition that is answered once."""

from __future__ import annotations

import msgspec
import pytest

from edgeml.fleet.registry import DeviceMessage, Seen
from edgeml.fleet.rollouts.plan import Phase
from edgeml.fleet.rules import answers
from edgeml.fleet.rules.answers import DEFAULT_RULES, Action, Event, EventRule
from edgeml_core.drift import Drift
from edgeml_core.messages import DeviceState, ModelState, Report
from support.rollout_fleet import a_rollout

NOW_S = 1_700_000_000.0
RUNNING = msgspec.structs.replace(a_rollout(10, 100), wave=0)
ALL = {it: EventRule(actions=answers.POSSIBLE[it]) for it in Event}


def state(*, online: bool = True, seen_s: float = NOW_S, grade: str = "", code: str = "", version: str = "2") -> Seen:
    """A device's last state, with one model."""
    drift = Drift(grade=grade, observed=500, psi={}) if grade else None
    model = ModelState(version=version, state="active", drift=drift)
    return Seen(state=DeviceState(online=online, session=1, models={"m": model}, code=code), seen_s=seen_s)


def failure(code: str, *, device: str = "d", deployment: str = "m-2", how: str = "rejected") -> DeviceMessage:
    """A report of a deployment that ended badly."""
    report = Report(deployment=deployment, name="m", version="2", state=how, session=1, code=code)
    return DeviceMessage(device=device, message=report, seen_s=NOW_S)


def answered(states=None, failed=(), rollouts=(), rules=ALL, known=None):
    """The answers to what holds now, where `known` was answered before."""
    holding = answers.conditions(states or {}, failed, rollouts, rules, NOW_S)
    return answers.decide({} if known is None else known, holding, rules, rollouts)


ROWS = {
    "well": ({"d": state()}, (), []),
    "no drift": ({"d": state(grade="ok")}, (), []),
    "moderate drift": ({"d": state(grade="moderate")}, (), ["drift-moderate"]),
    "major drift": ({"d": state(grade="major")}, (), ["drift-major"]),
    "offline for a moment": ({"d": state(online=False, seen_s=NOW_S - 60)}, (), []),
    "offline for a day": ({"d": state(online=False, seen_s=NOW_S - 86_400)}, (), ["silent"]),
    "online for a day": ({"d": state(seen_s=NOW_S - 86_400)}, (), []),
    "refused files": ({"d": state(code="rollback-attempt")}, (), ["failed"]),
    "failed probe": ({}, (failure("golden-mismatch"),), ["failed"]),
    "crash of a new version": ({}, (failure("crash-loop", how="rolled back"),), ["failed"]),
    "failed canary": ({}, (failure("shadow-disagreed", how="rolled back"),), ["canary"]),
}


@pytest.mark.parametrize(("states", "failed", "events"), ROWS.values(), ids=list(ROWS))
def test_conditions_follow_from_states_and_reports(states, failed, events):
    """Each names its event and its device."""
    found = answers.conditions(states, failed, (), ALL, NOW_S)
    assert [(it.event, it.device) for it in found] == [(event, "d") for event in events]


@pytest.mark.parametrize(
    ("phase", "paused"),
    [(Phase.RUNNING, True), (Phase.AWAITING, True), (Phase.PAUSED, False), (Phase.COMPLETED, False)],
)
@pytest.mark.parametrize("cause", ["drift", "failed", "canary"])
def test_pause_reaches_rollouts_that_run(phase: Phase, paused: bool, cause: str):
    """Drift those of its model, failures the one of their deployment."""
    rollout = msgspec.structs.replace(RUNNING, phase=phase)
    other = msgspec.structs.replace(RUNNING, deployment=msgspec.structs.replace(RUNNING.deployment, id="n-2", name="n"))
    states = {"d": state(grade="major")} if cause == "drift" else {}
    failed = () if cause == "drift" else (failure("shadow-disagreed" if cause == "canary" else "probe-crashed"),)
    given = answered(states, failed, (rollout, other))
    assert list(given.pauses) == (["m-2"] if paused else [])
    assert given.collects == ("d",)


@pytest.mark.parametrize(
    ("actions", "notices", "pauses", "collects"),
    [
        ((Action.NOTIFY,), 1, 0, 0),
        ((Action.PAUSE,), 0, 1, 0),
        ((Action.COLLECT,), 0, 0, 1),
        ((Action.NOTIFY, Action.COLLECT), 1, 0, 1),
        ((), 0, 0, 0),
    ],
)
def test_only_actions_of_the_rule_are_taken(actions, notices, pauses, collects):
    """Without a rule there is no answer, and the condition counts as answered."""
    rules = {Event.DRIFT_MAJOR: EventRule(actions=actions)} if actions else {}
    given = answered({"d": state(grade="major")}, rollouts=(RUNNING,), rules=rules)
    assert (len(given.notices), len(given.pauses), len(given.collects)) == (notices, pauses, collects)
    assert "drift:m:d" in given.raised


def test_condition_is_answered_once_until_its_value_changes():
    """A grade that gets worse is another occurrence; so is one that comes back after it had gone."""
    first = answered({"d": state(grade="moderate")})
    assert [it.event for it in first.notices] == ["drift-moderate"]
    again = answered({"d": state(grade="moderate")}, known=first.raised)
    assert (again.raised, again.cleared, again.notices) == ({}, (), ())
    worse = answered({"d": state(grade="major")}, known=first.raised)
    assert [it.event for it in worse.notices] == ["drift-major"]
    gone = answered({"d": state()}, known=worse.raised)
    assert (gone.cleared, gone.notices) == (("drift:m:d",), ())


def test_first_look_answers_nothing():
    """An old fleet's failures aren't news when a host first follows rules."""
    holding = answers.conditions({"d": state(grade="major")}, (failure("probe-crashed"),), (RUNNING,), ALL, NOW_S)
    given = answers.decide(None, holding, ALL, (RUNNING,))
    assert (given.notices, given.pauses, given.collects) == ((), {}, ())
    assert len(given.raised) == 3


def test_devices_with_one_condition_share_a_notice():
    """A site without power is one message, which names some of them and their number."""
    silent = {f"d-{n:03}": state(online=False, seen_s=0.0) for n in range(500)}
    (notice,) = answered(silent, rules=DEFAULT_RULES).notices
    assert (notice.count, len(notice.devices), notice.devices[0]) == (500, answers.NAMED_MAX, "d-000")
    assert "and 480 more: no connection for 86400 s" in notice.text


def test_rollouts_tell_each_wave_and_their_end():
    """With the reason of an end; a soak is no news."""
    known: dict[str, str] = {}
    texts = []
    for changes in (
        {"wave": 0},
        {"wave": 0, "soaks_from_s": 1.0},
        {"wave": 1},
        {"wave": 1, "phase": Phase.ABORTED, "reason": "3 of 10 failed"},
        {"wave": 1, "phase": Phase.ABORTED, "reason": "3 of 10 failed", "is_open": False},
    ):
        given = answered(rollouts=(msgspec.structs.replace(RUNNING, **changes),), known=known, rules=DEFAULT_RULES)
        known |= given.raised
        texts += [it.text for it in given.notices]
    assert texts == [
        "rollout m-2: running, wave 1 of 2",
        "rollout m-2: running, wave 2 of 2",
        "rollout m-2: aborted, wave 2 of 2: 3 of 10 failed",
    ]
