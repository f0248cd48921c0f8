"""Rollouts under random fleets, reports and acts: shares, order, finality, idempotence."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeml.fleet.rollouts import acts, controller, following
from edgeml.fleet.rollouts.outcomes import Observed, outcomes
from edgeml.fleet.rollouts.plan import Phase, Plan, Rollout
from edgeml_core import desired
from edgeml_core.desired import FleetDocument
from edgeml_core.errors import UsageError
from edgeml_core.lifecycle import State
from edgeml_core.messages import Report
from support.rollout_fleet import NAME, START_S, a_deployment

WAVES = st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(lambda it: tuple(map(float, sorted(it))))
PLANS = st.builds(
    Plan,
    waves=WAVES,
    soak_s=st.sampled_from([0.0, 600.0]),
    abort_above=st.sampled_from([0.0, 2.0, 30.0, 100.0]),
    sample_min=st.integers(1, 10),
    wait_s=st.sampled_from([1000.0, 86_400.0]),
    approve=st.booleans(),
)
#: A turn: devices that report, what they report, seconds that pass, an operator's act.
TURNS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 39), st.sampled_from([*State])), max_size=20),
        st.sampled_from([1.0, 700.0, 2000.0]),
        st.sampled_from(["", "", "", *acts.ACTS]),
    ),
    max_size=15,
)


class World:
    """Devices `0` to `count` - 1, of which any number reports anything, and one rollout beside a full deployment."""

    def __init__(self, plan: Plan, count: int) -> None:
        self.labels: dict[str, dict[str, str]] = {str(n): {} for n in range(count)}
        self.old = a_deployment("1")
        self.document = FleetDocument(fleet="edge", deployments=(self.old,))
        self.rollout = Rollout(deployment=msgspec.structs.replace(a_deployment("2"), in_waves=True), plan=plan)
        self.reports: dict[str, Report] = {}
        self.now_s = START_S

    def report(self, device: int, state: State) -> None:
        """Let a device report, if it sees the deployment."""
        if str(device) in self.included():
            self.reports[str(device)] = Report(
                deployment=self.rollout.id, name=NAME, version="2", state=state, session=1
            )

    def observed(self) -> Observed:
        """What the registry has."""
        return Observed(labels=self.labels, states={}, reports=self.reports)

    def included(self) -> set[str]:
        """The devices that the signed document gives the new version."""
        signed = [it for it in self.document.deployments if it.id == self.rollout.id]
        return {device for device in self.labels for it in signed if desired.includes(it, device, {})}

    def turn(self) -> None:
        """Let the controller decide; the same inputs decide alike, and the document follows once."""
        decision = controller.decide(self.document, self.observed(), self.rollout, self.now_s)
        assert decision == controller.decide(self.document, self.observed(), self.rollout, self.now_s)
        if decision is not None:
            self.rollout = controller.apply(self.rollout, decision, self.now_s)
        self.sign()

    def sign(self) -> None:
        """Let the document follow."""
        self.document = following.follow(self.document, self.rollout, self.labels)
        assert following.follow(self.document, self.rollout, self.labels) == self.document


@given(PLANS, st.integers(1, 40), TURNS)
@settings(max_examples=200)
def test_a_rollout_keeps_its_shares_and_its_order_for_all_reports_and_acts(plan, count, turns):
    """No device beyond the wave's share; no wave left out of order; no share that shrinks; an abort is final."""
    world = World(plan, count)
    for reports, seconds, act in turns:
        for device, state in reports:
            world.report(device, state)
        before = world.rollout
        if act:
            try:
                world.rollout = acts.ACTS[act](world.rollout, world.now_s)
            except UsageError:
                assert world.rollout == before
            world.sign()
        included = world.included()
        world.turn()
        after = world.rollout
        check_share(world, plan, count)
        if before.phase in {Phase.ABORTED, Phase.ROLLED_BACK}:
            assert after == before
        if after.phase in {Phase.ABORTED, Phase.ROLLED_BACK}:
            assert world.included() == set()
            assert world.document.deployments[-1] == world.old
        else:
            assert included <= world.included()
            assert before.wave <= after.wave
        if plan.approve:
            assert after.wave < after.approved
        world.now_s += seconds


def check_share(world: World, plan: Plan, count: int) -> None:
    """Check the devices of the newest wave. Devices with equal places go together, so they may exceed one."""
    if world.rollout.wave < 0:
        assert world.included() == set()
        return
    order = outcomes(world.rollout, world.document, world.observed())
    together = sum(it.place == order[0].place for it in order)
    most = max(math.floor(count * plan.waves[world.rollout.wave] / 100 + 1e-9), together, 1)
    assert len(world.included()) <= most


@given(PLANS, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=50)
def test_a_good_version_ends_everywhere_and_silence_alone_reaches_one_wave(plan, count, apart):
    """Devices report within two turns; and where no device says anything, no second wave begins."""
    good, silent = World(msgspec.structs.replace(plan, approve=False), count), World(plan, count)
    for turn in range(10 * len(plan.waves)):
        good.turn()
        silent.turn()
        for device in sorted(good.included()):
            if (int(device) // apart + turn) % 2:
                good.report(int(device), State.ACTIVE)
        good.now_s += 300
        silent.now_s += 86_400
    assert good.rollout.phase is Phase.COMPLETED
    assert silent.rollout.wave == 0
    assert silent.rollout.phase is Phase.PAUSED
