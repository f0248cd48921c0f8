"""Rollouts: one row for each rule of the controller, and fleets of 200 devices in plain Python."""

from __future__ import annotations

import sys
import zoneinfo
from itertools import pairwise

import msgspec
import pytest

from edgeml.fleet.rollouts import acts, controller, following
from edgeml.fleet.rollouts.controller import Abort, Ask, Begin, Complete, Pause, Soak
from edgeml.fleet.rollouts.outcomes import Observed, Outcome, outcomes
from edgeml.fleet.rollouts.plan import Phase, Plan, Rollout, check
from edgeml_core import desired
from edgeml_core.desired import FleetDocument
from edgeml_core.drift import Drift
from edgeml_core.errors import UsageError
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, ModelState, Report, Tuned
from support.rollout_fleet import NAME, START_S, FleetInMemory, a_deployment, a_rollout

NOW_S = START_S
#: Twenty devices; the first wave of 20 % has four.
DEVICES = [f"d-{n:02}" for n in range(20)]
LABELS: dict[str, dict[str, str]] = {it: {} for it in DEVICES}
EMPTY = FleetDocument(fleet="edge", deployments=())


def under_way(rollout: Rollout, *, wave: int = 0, soaks: bool = False, began_s: float = NOW_S, **changes) -> Rollout:
    """The rollout after its wave has begun."""
    order = outcomes(rollout, EMPTY, Observed(labels=LABELS, states={}, reports={}))
    percents = [0.0, *(controller.share(order, it) for it in rollout.plan.waves)]
    return msgspec.structs.replace(
        rollout,
        wave=wave,
        percent=percents[wave + 1],
        percent_before=percents[wave],
        began_s=began_s,
        soaks_from_s=began_s if soaks else 0.0,
        **changes,
    )


def reported(rollout: Rollout, states: str, *, code: str = "golden-mismatch") -> Observed:
    """Reports of the first devices in the order of the waves: a letter each. `-` is silent."""
    names = {"a": State.ACTIVE, "f": State.REJECTED, "r": State.ROLLED_BACK, "u": State.FETCHING}
    order = [it.device for it in outcomes(rollout, EMPTY, Observed(labels=LABELS, states={}, reports={}))]
    reports = {
        device: Report(
            deployment=rollout.id,
            name=NAME,
            version=rollout.deployment.version,
            state=names[letter],
            session=1,
            code=code if letter in "fr" else "",
        )
        for device, letter in zip(order, states, strict=False)
        if letter != "-"
    }
    return Observed(labels=LABELS, states={}, reports=reports)


PLAIN = a_rollout(20, 60, 100)
LATER = {"began_s": NOW_S - 600}
ROWS = {
    "first wave begins at once": (PLAIN, "", Begin),
    "wave without reports waits": (under_way(PLAIN), "----", None),
    "wave with an update under way waits": (under_way(PLAIN), "aaau", None),
    "wave whose devices have ended soaks": (under_way(PLAIN), "aaaa", Soak),
    "soak that isn't over waits": (under_way(PLAIN, soaks=True), "aaaa", None),
    "next wave begins after the soak": (under_way(PLAIN, soaks=True, **LATER), "aaaa", Begin),
    "last wave soaks, too": (under_way(PLAIN, wave=2), "a" * 20, Soak),
    "rollout is complete after the last soak": (under_way(PLAIN, wave=2, soaks=True, **LATER), "a" * 20, Complete),
    "a failure above the limit aborts": (under_way(PLAIN), "f---", Abort),
    "a roll-back counts as a failure": (under_way(PLAIN), "aaar", Abort),
    "a failure during the soak aborts": (under_way(PLAIN, soaks=True, **LATER), "aaaf", Abort),
    "failures within the limit don't abort": (under_way(a_rollout(20, abort_above=25.0)), "aaaf", Soak),
    "failures that may stay within the limit wait": (under_way(a_rollout(20, abort_above=25.0)), "f---", None),
    "failures of a sample above the limit abort": (
        under_way(a_rollout(100, abort_above=25.0, sample_min=4)), "aaff" + "-" * 16, Abort),
    "failures below the sample wait": (
        under_way(a_rollout(100, abort_above=25.0, sample_min=5)), "aaff" + "-" * 16, None),
    "late failures of an earlier wave abort": (
        under_way(a_rollout(20, 60, 100, abort_above=10.0), wave=1), "ffaa" + "a" * 8, Abort),
    "paused rollout begins nothing": (under_way(PLAIN, soaks=True, phase=Phase.PAUSED, **LATER), "aaaa", None),
    "paused rollout still aborts": (under_way(PLAIN, phase=Phase.PAUSED), "f---", Abort),
    "approval is asked for": (under_way(a_rollout(20, 100, approve=True), soaks=True, **LATER), "aaaa", Ask),
    "approval is asked for once": (
        under_way(a_rollout(20, 100, approve=True), soaks=True, phase=Phase.AWAITING, **LATER), "aaaa", None),
    "rollout that waits for approval aborts": (
        under_way(a_rollout(20, 100, approve=True), soaks=True, phase=Phase.AWAITING, **LATER), "aaaf", Abort),
    "approved wave begins": (
        under_way(a_rollout(20, 100, approve=True), soaks=True, approved=2, **LATER), "aaaa", Begin),
    "first wave needs no approval": (a_rollout(20, approve=True), "", Begin),
    "silent devices no longer hold a wave after the wait": (
        under_way(PLAIN, began_s=NOW_S - 90_000), "aa--", Soak),
    "silence of most devices pauses": (under_way(PLAIN, began_s=NOW_S - 90_000), "a---", Pause),
    "silence of all devices pauses": (under_way(PLAIN, began_s=NOW_S - 90_000), "----", Pause),
    "updates under way don't hold a wave for ever": (under_way(PLAIN, began_s=NOW_S - 90_000), "aauu", Soak),
    "aborted rollout is final": (under_way(PLAIN, phase=Phase.ABORTED), "aaaa", None),
    "complete rollout is final": (under_way(PLAIN, wave=2, phase=Phase.COMPLETED), "f" * 20, None),
    "wave waits for its hours": (a_rollout(20, window="00:00-00:01"), "", None),
    "wave begins within its hours": (a_rollout(20, window="22:00-23:00"), "", Begin),
    "hours are those of the zone": (a_rollout(20, window="22:00-23:00", zone="Europe/Berlin"), "", None),
    "host that doesn't know the zone pauses": (a_rollout(20, window="22:00-23:00", zone="Nowhere/Land"), "", Pause),
    "file that is no zone pauses": (a_rollout(20, window="22:00-23:00", zone="Europe"), "", Pause),
}  # fmt: skip


@pytest.mark.parametrize(("rollout", "states", "expected"), ROWS.values(), ids=list(ROWS))
def test_a_decision_follows_from_the_reports(rollout: Rollout, states: str, expected):
    """It is 22:13 in UTC. The same inputs give the same decision."""
    observed = reported(rollout, states)
    decision = controller.decide(EMPTY, observed, rollout, NOW_S)
    assert type(decision) is (expected or type(None))
    assert controller.decide(EMPTY, observed, rollout, NOW_S) == decision


def test_reasons_name_the_devices_their_codes_and_the_limit():
    """Five of them at most."""
    rollout = under_way(a_rollout(50))
    decision = controller.decide(EMPTY, reported(rollout, "a" + "f" * 7), rollout, NOW_S)
    assert isinstance(decision, Abort)
    assert "7 of 8 ended devices of wave 1 failed, limit 2 %" in decision.reason
    assert decision.reason.count("golden-mismatch") == 5
    assert decision.reason.endswith("and 2 more")


def test_waves_have_their_exact_share_of_the_devices_and_one_at_least():
    """Never more than the share, where it is a device; a wave that adds none is left out."""
    order = outcomes(PLAIN, EMPTY, Observed(labels=LABELS, states={}, reports={}))

    def included(percent: float) -> int:
        signed = msgspec.structs.replace(PLAIN.deployment, percent=controller.share(order, percent))
        return sum(desired.includes(signed, it, {}) for it in DEVICES)

    counts = {percent: included(percent) for percent in (1, 5, 9.9, 10, 25, 50, 99, 100)}
    assert counts == {1: 1, 5: 1, 9.9: 1, 10: 2, 25: 5, 50: 10, 99: 19, 100: 20}
    rollout = under_way(a_rollout(1, 5, 9, 10, 100), soaks=True, **LATER)
    decision = controller.decide(EMPTY, reported(rollout, "a"), rollout, NOW_S)
    assert isinstance(decision, Begin)
    assert decision.wave == 3


def test_devices_of_other_deployments_are_in_no_wave():
    """Those that the selector leaves out, and pinned ones."""
    labels = {"a": {"site": "x"}, "b": {"site": "y"}, "c": {"site": "x"}}
    rollout, pin = a_rollout(100, selector="site=x"), a_deployment("0", selector="device=c", pinned=True)
    document = msgspec.structs.replace(EMPTY, deployments=(pin,))
    assert [it.device for it in outcomes(rollout, document, Observed(labels=labels, states={}, reports={}))] == ["a"]


@pytest.mark.parametrize(
    ("plan", "grade", "now_ms", "outcome", "code"),
    [
        ({}, "major", 900.0, Outcome.SUCCEEDED, ""),
        ({"drift": "moderate"}, "ok", 1.0, Outcome.SUCCEEDED, ""),
        ({"drift": "moderate"}, "major", 1.0, Outcome.FAILED, "drift"),
        ({"drift": "major"}, "moderate", 1.0, Outcome.SUCCEEDED, ""),
        ({"drift": "major"}, "major", 1.0, Outcome.FAILED, "drift"),
        ({"slower": 1.5}, "ok", 14.9, Outcome.SUCCEEDED, ""),
        ({"slower": 1.5}, "ok", 15.1, Outcome.FAILED, "slower"),
    ],
)
def test_drift_and_slowness_count_as_failures_where_the_plan_asks_for_it(plan, grade, now_ms, outcome, code):
    """Slowness is judged against the same device's version before: 10 ms."""
    rollout = a_rollout(100, **plan)

    def report(ms: float) -> Report:
        tuned = Tuned(threads=1, batch_size=1, prepared=False, saved_bytes=0, exported_ms=ms, tuned_ms=ms,
                      predicted_ram_bytes=0, measured_ram_bytes=0)  # fmt: skip
        return Report(deployment=rollout.id, name=NAME, version="2", state=State.ACTIVE, session=1, tuned=tuned)

    drift = Drift(grade=grade, observed=500, psi={"score": 0.2})
    model = ModelState(version="2", state=State.ACTIVE, drift=drift)
    observed = Observed(
        labels={"a": {}},
        states={"a": DeviceState(online=True, session=1, models={NAME: model})},
        reports={"a": report(now_ms)},
        before={"a": report(10.0)},
    )
    [found] = outcomes(rollout, EMPTY, observed)
    assert (found.outcome, found.code) == (outcome, code)


@pytest.mark.parametrize(
    "changes",
    [{"waves": ()}, {"waves": (5, 5)}, {"waves": (50, 25)}, {"waves": (0,)}, {"waves": (101,)}, {"abort_above": 101},
     {"soak_s": -1}, {"wait_s": 0}, {"sample_min": 0}, {"drift": "bad"}, {"slower": 0.5}, {"window": "x"},
     {"window": "22:00-05:00", "zone": "Nowhere/Land"}, {"window": "22:00-05:00", "zone": "Europe"},
     {"window": "22:00-05:00", "zone": "../UTC"}, {"waves": tuple(range(1, 22))}],
)  # fmt: skip
def test_plans_that_make_no_sense_are_refused(changes):
    """With the value and a hint."""
    with pytest.raises(UsageError) as caught:
        check(msgspec.structs.replace(Plan(waves=(5, 100)), **changes))
    assert caught.value.hint


def test_hours_in_utc_need_no_database_of_time_zones(monkeypatch):
    """Small images have none. A zone that isn't UTC is refused there with the package to install."""
    for name in ("tzdata", *(it for it in sys.modules if it.startswith("tzdata."))):
        monkeypatch.setitem(sys.modules, name, None)
    plan = Plan(waves=(100,), window="22:00-23:00")
    try:
        zoneinfo.reset_tzpath(to=())
        zoneinfo.ZoneInfo.clear_cache()
        assert check(plan).opens_at(NOW_S) == NOW_S
        with pytest.raises(UsageError) as caught:
            check(msgspec.structs.replace(plan, zone="Europe/Berlin"))
    finally:
        zoneinfo.reset_tzpath()
    assert "Europe/Berlin" in caught.value.message
    assert "tzdata" in caught.value.hint


@pytest.mark.parametrize(
    ("act", "phase", "expected"),
    [
        ("pause", Phase.RUNNING, Phase.PAUSED),
        ("pause", Phase.AWAITING, Phase.PAUSED),
        ("pause", Phase.ABORTED, None),
        ("resume", Phase.PAUSED, Phase.RUNNING),
        ("resume", Phase.RUNNING, None),
        ("resume", Phase.ABORTED, None),
        ("approve", Phase.AWAITING, Phase.RUNNING),
        ("approve", Phase.RUNNING, Phase.RUNNING),
        ("approve", Phase.COMPLETED, None),
        ("abort", Phase.RUNNING, Phase.ABORTED),
        ("abort", Phase.PAUSED, Phase.ABORTED),
        ("abort", Phase.COMPLETED, None),
        ("rollback", Phase.COMPLETED, Phase.ROLLED_BACK),
        ("rollback", Phase.RUNNING, None),
        ("rollback", Phase.ABORTED, None),
    ],
)
def test_the_operators_acts(act: str, phase: Phase, expected: Phase | None):
    """Each has its phases; the others are refused with a hint. No act revives an aborted rollout."""
    rollout = under_way(a_rollout(20, 100, approve=True), phase=phase)
    if expected is None:
        with pytest.raises(UsageError) as caught:
            acts.ACTS[act](rollout, NOW_S)
        assert caught.value.hint
    else:
        assert acts.ACTS[act](rollout, NOW_S).phase is expected


def test_document_follows_the_rollout():
    """One rule for each phase; following twice changes nothing; what is deployed later stays."""
    old, other, later = a_deployment("1"), a_deployment("9", selector="site=x"), a_deployment("3", selector="site=y")
    document = msgspec.structs.replace(EMPTY, deployments=(old, other))
    rollout = a_rollout(20, 100)

    def follow(document: FleetDocument, **changes) -> FleetDocument:
        after = msgspec.structs.replace(rollout, **changes)
        followed = following.follow(document, after, LABELS)
        assert following.follow(followed, after, LABELS) == followed
        return followed

    def versions(document: FleetDocument) -> list[tuple[str, float]]:
        return [(it.version, it.percent) for it in document.deployments]

    waiting = follow(document)
    assert versions(waiting) == [("1", 100), ("9", 100), ("2", 0)]
    assert follow(waiting, phase=Phase.ABORTED) == document
    first = follow(waiting, wave=0, percent=20.0)
    assert versions(first) == [("1", 100), ("9", 100), ("2", 20)]
    last = follow(first, wave=1, percent=100.0)
    assert versions(last) == [("1", 100), ("9", 100), ("2", 100)]
    assert follow(last, wave=1, percent=100.0, phase=Phase.ABORTED) == document
    complete = follow(last, wave=1, percent=100.0, phase=Phase.COMPLETED)
    assert versions(complete) == [("2", 100)]
    after = msgspec.structs.replace(complete, deployments=(*complete.deployments, later))
    assert follow(after, wave=1, percent=100.0, phase=Phase.COMPLETED) == after
    replaced = following.replaced_by(last, msgspec.structs.replace(rollout, wave=1, percent=100.0))
    assert replaced == (old, other)
    back = follow(after, wave=1, percent=100.0, phase=Phase.ROLLED_BACK, replaced=replaced)
    assert back.deployments == (old, other, later)
    assert follow(document, wave=1, percent=100.0, phase=Phase.COMPLETED) == document


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.PAUSED, Phase.ABORTED, Phase.COMPLETED])
def test_another_deployment_with_the_id_of_a_rollout_stays(phase: Phase):
    """A rollout that was recorded but not yet signed left its id free: earlier versions gave it to the next one."""
    rollout = a_rollout(20, 100)
    pin = a_deployment("2", selector="device=d-03", pinned=True)
    document = msgspec.structs.replace(EMPTY, deployments=(a_deployment("1"), pin))
    assert pin.id == rollout.id
    for wave, percent in ((-1, 0.0), (0, 20.0), (1, 100.0)):
        after = msgspec.structs.replace(rollout, wave=wave, percent=percent, phase=phase)
        assert following.follow(document, after, LABELS) == document


def test_aborted_first_version_is_removed_from_the_devices_that_have_it():
    """They served nothing before. Devices outside of the wave aren't selected."""
    rollout = under_way(PLAIN)
    running = following.follow(EMPTY, rollout, LABELS)
    aborted = following.follow(running, msgspec.structs.replace(rollout, phase=Phase.ABORTED), LABELS)
    [removal] = aborted.deployments
    assert removal.removes
    touched = {it for it in DEVICES if desired.includes(running.deployments[0], it, {})}
    assert {it for it in DEVICES if desired.includes(removal, it, {})} == touched
    assert len(touched) == 4


def fleet_of(devices: int, rollout: Rollout, **options) -> FleetInMemory:
    """Devices of four sites."""
    return FleetInMemory({f"dev-{n:03}": {"site": f"s{n % 4}"} for n in range(devices)}, rollout, **options)


@pytest.mark.parametrize("seed", range(3))
def test_bad_version_stops_in_its_first_wave_and_every_touched_device_is_back(seed: int):
    """Of 200 devices 20 see it at most, and nobody outside of the wave ever does."""
    fleet = fleet_of(200, a_rollout(10, 50, 100), is_good=lambda version, _: version != "2", seed=seed)
    outside = None
    while fleet.rollout.phase is Phase.RUNNING:
        fleet.turn()
        if outside is None:
            signed = fleet.document.deployments[-1]
            outside = {it for it in fleet.labels if not desired.includes(signed, it, fleet.labels[it])}
        fleet.follow_document()
        fleet.now_s += 30
    fleet.run()
    assert [type(it) for it in fleet.decisions] == [Begin, Abort]
    assert fleet.rollout.phase is Phase.ABORTED
    assert fleet.document.deployments == fleet.before
    assert 0 < len(fleet.reached()) <= 20
    assert not fleet.reached() & outside
    assert set(fleet.serving.values()) == {"1"}
    assert len(fleet.serving) == 200


def test_version_that_crashes_later_is_taken_back_from_the_devices_that_serve_it():
    """The first wave serves it, one device in ten rolls it back during the soak."""
    fleet = fleet_of(200, a_rollout(10, 50, 100, soak_s=3600.0))
    while not fleet.rollout.soaks_from_s:
        fleet.turn()
        fleet.follow_document()
        fleet.now_s += 30
    for device in sorted(fleet.reached())[:2]:
        report = fleet.reports[fleet.rollout.id][device]
        fleet.reports[fleet.rollout.id][device] = msgspec.structs.replace(
            report, state=State.ROLLED_BACK, code="crash-loop"
        )
    fleet.run()
    assert fleet.rollout.phase is Phase.ABORTED
    assert "crash-loop" in fleet.rollout.reason
    assert set(fleet.serving.values()) == {"1"}
    assert len(fleet.reached()) == 20


def test_good_version_reaches_all_devices_in_order():
    """Waves of 20, 100 and 200 devices, a soak between them; the old deployment leaves at the end."""
    fleet = fleet_of(200, a_rollout(10, 50, 100))
    fleet.run()
    waves = [it for it in fleet.decisions if isinstance(it, Begin)]
    assert [type(it) for it in fleet.decisions] == [Begin, Soak] * 3 + [Complete]
    assert all(a.percent < b.percent for a, b in pairwise(waves))
    assert set(fleet.serving.values()) == {"2"}
    assert [it.version for it in fleet.document.deployments] == ["2"]


def test_silent_devices_hold_a_wave_for_the_wait_and_no_longer():
    """A tenth of the fleet is away: it gets the version later by the document. If all are away the rollout pauses."""
    away = frozenset(f"dev-{n:03}" for n in range(0, 200, 10))
    fleet = fleet_of(200, a_rollout(10, 100, wait_s=7200.0), offline=away)
    fleet.run(step_s=600)
    assert fleet.rollout.phase is Phase.COMPLETED
    assert fleet.rollout.soaks_from_s - fleet.rollout.began_s >= 7200
    fleet = fleet_of(200, a_rollout(10, 100, wait_s=7200.0), offline=frozenset(fleet.labels))
    fleet.run(step_s=600)
    assert fleet.rollout.phase is Phase.PAUSED
    assert "too few devices" in fleet.rollout.reason
    assert fleet.rollout.wave == 0
