"""A fleet in plain Python for rollouts: devices that follow a document, with outcomes by version, on its own clock.

Each device decides by the core's rules, as the agent does, and reports a while later. The controller's decisions are
applied as the host applies them: the rollout first, then the document.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from edgeml.fleet.rollouts import controller, following
from edgeml.fleet.rollouts.controller import Decision
from edgeml.fleet.rollouts.outcomes import Observed
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan, Rollout
from edgeml_core import desired
from edgeml_core.desired import Deployment, FleetDocument, Wanted
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, ModelState, Report

NAME = "m"
START_S = 1_700_000_000.0


def a_deployment(version: str = "2", *, percent: float = 100.0, selector: str = "", pinned: bool = False) -> Deployment:
    """A deployment of one bundle."""
    bundle = Wanted(target="t", format="onnx", arch="x86_64", cpu_features=(), manifest_sha256=version)
    return Deployment(
        id=f"{NAME}-{version}",
        name=NAME,
        version=version,
        selector=selector,
        percent=percent,
        bundles=(bundle,),
        pinned=pinned,
    )


def a_rollout(*waves: float, version: str = "2", selector: str = "", **plan) -> Rollout:
    """A rollout that hasn't begun."""
    deployment = msgspec.structs.replace(a_deployment(version, selector=selector), in_waves=True)
    return Rollout(deployment=deployment, plan=Plan(waves=waves or (10, 50, 100), **plan))


@dataclass
class FleetInMemory:
    """Devices, the document and one rollout.

    Args:
        labels: of each device.
        is_good: whether a version works on a device.
        takes_s: how long an update takes.
        offline: devices that never report.
    """

    labels: dict[str, dict[str, str]]
    rollout: Rollout
    is_good: Callable[[str, str], bool] = lambda version, device: True
    takes_s: float = 60.0
    offline: frozenset[str] = frozenset()
    before: tuple[Deployment, ...] = (a_deployment("1"),)
    seed: int = 1
    now_s: float = START_S
    decisions: list[Decision] = field(default_factory=list)
    #: The deployments of which each device ever began the update, and those that it has finished.
    seen: dict[str, set[str]] = field(default_factory=dict)
    serving: dict[str, str] = field(default_factory=dict)
    reports: dict[str, dict[str, Report]] = field(default_factory=dict)
    _due_s: dict[str, tuple[str, float]] = field(default_factory=dict)
    #: The deployment that each device has ended last.
    _ended: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311 - no secret
        self.document = FleetDocument(fleet="edge", deployments=self.before)
        for _ in range(3):
            self.follow_document()
            self.now_s += 2 * self.takes_s

    def wanted(self, device: str) -> Deployment | None:
        """What the signed document wants of a device."""
        rules = sorted(self.document.deployments, key=lambda it: it.pinned)
        including = [it for it in rules if desired.includes(it, device, self.labels[device])]
        return including[-1] if including else None

    def follow_document(self) -> None:
        """Let every device look at the document, and finish updates that have taken their time."""
        for device in self.labels.keys() - self.offline:
            wanted = self.wanted(device)
            if wanted is None or self._ended.get(device) == wanted.id:
                continue
            if self._due_s.get(device, ("", 0))[0] != wanted.id:
                self.seen.setdefault(device, set()).add(wanted.version)
                self._due_s[device] = wanted.id, self.now_s + self.takes_s * self.random.uniform(0.5, 2)
            elif self.now_s >= self._due_s[device][1]:
                self._finish(device, wanted)

    def _finish(self, device: str, wanted: Deployment) -> None:
        self._ended[device] = wanted.id
        is_good = self.is_good(wanted.version, device)
        if is_good:
            self.serving[device] = wanted.version
        state = (State.ACTIVE if wanted.version else State.REMOVED) if is_good else State.ROLLED_BACK
        code = "" if is_good else "golden-mismatch"
        self.reports.setdefault(wanted.id, {})[device] = Report(
            deployment=wanted.id, name=NAME, version=wanted.version, state=state, session=1, code=code
        )

    def observed(self) -> Observed:
        """What the registry would have."""
        states = {
            device: DeviceState(online=True, session=1, models={NAME: ModelState(version=it, state=State.ACTIVE)})
            for device, it in self.serving.items()
        }
        return Observed(labels=self.labels, states=states, reports=self.reports.get(self.rollout.id, {}))

    def turn(self) -> Decision | None:
        """Let the controller decide once, and sign."""
        decision = controller.decide(self.document, self.observed(), self.rollout, self.now_s)
        if decision is not None:
            self.decisions.append(decision)
            self.rollout = controller.apply(self.rollout, decision, self.now_s)
        self.document = following.follow(self.document, self.rollout, self.labels)
        return decision

    def run(self, *, hours: float = 48, step_s: float = 30.0) -> None:
        """Let time pass until the rollout has ended or waits for the operator, and the devices have followed."""
        end_s = self.now_s + hours * 3600
        while self.now_s < end_s and self.rollout.phase not in {*ENDED, Phase.PAUSED, Phase.AWAITING}:
            self.turn()
            self.follow_document()
            self.now_s += step_s
        for _ in range(20):
            self.follow_document()
            self.now_s += self.takes_s

    def reached(self) -> set[str]:
        """The devices that ever saw the rollout's version."""
        return {device for device, versions in self.seen.items() if self.rollout.deployment.version in versions}
