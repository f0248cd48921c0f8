"""Steer rollouts: record each decision, log it, and let the signed document follow. `controller` makes the decisions.

All of it happens under the repository's lock, in this order: audit log, database, document. A process that dies between
two of them leaves a rollout that is ahead of the document, and the next turn lets the document follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from sqlalchemy import Connection

from edgeml.fleet.registry import Registry
from edgeml.fleet.rollouts import acts, controller, following, plan
from edgeml.fleet.rollouts.controller import Abort, Complete, Decision, Pause
from edgeml.fleet.rollouts.outcomes import DeviceOutcome, Observed, Outcome, outcomes
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan, Rollout
from edgeml.fleet.rollouts.records import Rollouts
from edgeml.repository import RepositoryFolder, deployments
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import selectors
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.errors import EdgemlError
from edgeml_core.messages import Report

Labels: TypeAlias = "Mapping[str, Mapping[str, str]]"
#: The actor of decisions in the audit log.
CONTROLLER: Final = "controller"
#: Bytes of the fleet document that an act leaves free: for the percentages of waves and the audit log's next numbers.
DOCUMENT_SPARE_BYTES: Final = 64


class Steering:
    """The rollouts of one repository.

    Args:
        repository: opened; its fleet key signs.
        registry: the devices' states and reports, and the database of rollouts.
        check: lets a transaction fail where this host no longer leads; None for an operator's command.
    """

    def __init__(
        self, repository: RepositoryFolder, registry: Registry, check: Callable[[Connection], None] | None = None
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._check = check
        self.rollouts = Rollouts(registry.database)

    def begin(
        self, name: str, version: str | None, *, selector: str, plan_: Plan, allow_empty: bool = False, now: datetime
    ) -> Rollout:
        """Record a new rollout, and begin its first wave if the plan's hours permit it.

        Args:
            name: the model.
            version: None takes the version that was published last and isn't withdrawn.
            selector: the devices; empty selects all.
            plan_: the waves and their conditions.
            allow_empty: permit a selector that matches no enrolled device.
            now: the present time.

        Raises:
            UsageError: `usage`, for a bad plan or selector, when a rollout of the model is under way, or when the
                deployment doesn't fit into the document; `release-unknown`; `release-withdrawn`; `repo-invalid`.
            DeviceError: `store-failed`.
        """
        plan.check(plan_)
        with self._repository.locked():
            wanted = selectors.parse(selector)
            rule = deployments.draft(self._repository, name, version, wanted, allow_empty=allow_empty)
            document = self._repository.document()
            deployments.check_no_rollout(document, name)
            rollouts = self.rollouts.all()
            if running := [it.id for it in rollouts if it.deployment.name == name and it.phase not in ENDED]:
                raise deployments.rollout_error(running[0])
            taken = {it.id for it in (*document.deployments, *(old.deployment for old in rollouts))}
            rule = deployments.with_free_id(rule, taken)
            rollout = Rollout(deployment=msgspec.structs.replace(rule, in_waves=True), plan=plan_)
            self._check_fits(document, (*document.deployments, rollout.deployment))
            facts = {**deployments.facts(rule), "percent": None, **_facts(plan_)}
            self._repository.audit.append("roll out", rollout.id, facts, now=now)
            self._remember_database()
            self.rollouts.add(rollout)
            self._turn(rollout, now)
        return self.rollouts.find(rollout.id)

    def act(self, name: str, act: str, *, now: datetime, actor: str | None = None, wave: int | None = None) -> Rollout:
        """Let the operator pause, resume, approve, abort or roll back a rollout.

        Args:
            name: the rollout's id or its model.
            act: a key of `acts.ACTS`.
            now: the present time.
            actor: the operator in the audit log; None is the user of this process.
            wave: the next wave as the operator has seen it, counted from 1: another one refuses the act. None is any.

        Raises:
            UsageError: `usage`, when there is no such rollout, its phase doesn't permit the act, its next wave is
                another, or a rollback finds its deployment replaced or brings back more than fits.
            DeviceError: `store-failed`.
        """
        with self._repository.locked():
            rollout, labels = self.rollouts.find(name), self._repository.labels()
            if wave is not None:
                acts.check_next(rollout, wave)
            after = acts.ACTS[act](rollout, now.timestamp())
            if after.phase is Phase.ROLLED_BACK:
                document = self._repository.document()
                following.check_not_replaced(document, rollout)
                self._check_fits(document, following.follow(document, after, labels).deployments)
            if after.phase in {Phase.ABORTED, Phase.ROLLED_BACK}:
                after = self._with_failures(after)
            log = partial(self._repository.audit.append, act, rollout.id, {"phase": after.phase}, now=now, actor=actor)
            self.rollouts.change(after, log=log)
            self._follow(after, labels, now)
        return self.rollouts.find(rollout.id)

    def pause(self, name: str, reason: str, *, now: datetime) -> None:
        """Pause a rollout by a rule; one that is paused or has ended stays as it is.

        Raises:
            UsageError: `usage`, when there is no such rollout. DeviceError: `store-failed`; `not-leader`.
        """
        with self._repository.locked():
            rollout = self.rollouts.find(name)
            if rollout.phase in ENDED or rollout.phase is Phase.PAUSED:
                return
            after = controller.apply(rollout, Pause(reason), now.timestamp())
            self._decide("pause", after, {"reason": reason}, now)

    def turn(self, now: datetime) -> Iterator[tuple[Rollout, Decision]]:
        """Decide once about each open rollout, and yield the decisions with the rollouts after them.

        One that can't be steered holds up no other: its error is raised after the last rollout.

        Raises:
            DeviceError: `store-failed`; `not-leader`, at once. UsageError: `repo-invalid`; `usage`, when the document
                would be too long.
        """
        failed: EdgemlError | None = None
        for rollout in self.rollouts.all(is_open=True):
            try:
                with self._repository.locked():
                    # An operator's command may have changed it since.
                    decided = self._turn(self.rollouts.find(rollout.id), now)
            except EdgemlError as error:
                if error.code == "not-leader":
                    raise
                failed = failed or error
            else:
                if decided:
                    yield decided
        if failed:
            raise failed

    def reached(self, rollout: Rollout) -> list[DeviceOutcome]:
        """Return the outcome so far on each device that the whole rollout reaches, in the order of its waves."""
        document = self._repository.document()
        return outcomes(rollout, document, self._observed(rollout, document, self._repository.labels()))

    def _turn(self, rollout: Rollout, now: datetime) -> tuple[Rollout, Decision] | None:
        document, labels = self._repository.document(), self._repository.labels()
        decision = controller.decide(document, self._observed(rollout, document, labels), rollout, now.timestamp())
        if decision is None:
            self._follow(rollout, labels, now)
            return None
        after = controller.apply(rollout, decision, now.timestamp())
        if isinstance(decision, Complete):
            after = msgspec.structs.replace(after, replaced=following.replaced_by(document, after))
        if isinstance(decision, Abort):
            after = self._with_failures(after)
        self._decide(type(decision).__name__.lower(), after, msgspec.structs.asdict(decision), now)
        self._follow(after, labels, now)
        return after, decision

    def _with_failures(self, rollout: Rollout) -> Rollout:
        """Keep the failures in a rollout whose deployment leaves the document: the registry forgets its reports."""
        failed = [it for it in controller.begun(rollout, self.reached(rollout)) if it.outcome is Outcome.FAILED]
        return msgspec.structs.replace(rollout, failed={it.device: it.code for it in failed[: plan.FAILED_KEPT_MAX]})

    def _check_fits(self, document: FleetDocument, deployments_: tuple[Deployment, ...]) -> None:
        """Check before an act is recorded that its deployments can be signed.

        Raises:
            UsageError: `usage`.
        """
        changed = msgspec.structs.replace(document, deployments=deployments_)
        self._repository.encode_document(changed, spare_bytes=DOCUMENT_SPARE_BYTES)

    def _remember_database(self) -> None:
        """Let the repository know which database has its rollouts; of its own it needs no name, which would move."""
        name = self._registry.database.name
        is_own = Path(name).resolve() == (self._repository.folder / DATABASE_FILE).resolve()
        self._repository.enrollments.set_address("database", "" if is_own else name)

    def _decide(self, act: str, after: Rollout, facts: Mapping[str, object], now: datetime) -> None:
        """Log and record a decision of the controller; one that the database doesn't take isn't logged, either."""
        facts = {"phase": after.phase, **facts}
        log = partial(self._repository.audit.append, f"rollout: {act}", after.id, facts, now=now, actor=CONTROLLER)
        self.rollouts.change(after, self._check, log)

    def _follow(self, rollout: Rollout, labels: Labels, now: datetime) -> None:
        """Sign the document that the rollout asks for, and close a rollout that has ended."""
        document = self._repository.document()
        followed = following.follow(document, rollout, labels)
        if followed != document:
            self._repository.write_document(followed, now)
        if rollout.phase in ENDED and rollout.is_open:
            self.rollouts.change(msgspec.structs.replace(rollout, is_open=False), self._check)

    def _observed(self, rollout: Rollout, document: FleetDocument, labels: Labels) -> Observed:
        before: dict[str, Report] = {}
        if rollout.plan.slower:
            for it in document.deployments:
                if it.name == rollout.deployment.name and it.id != rollout.id:
                    before |= self._registry.reports(it.id)
        return Observed(
            labels=labels,
            states={device: seen.state for device, seen in self._registry.devices().items()},
            reports=self._registry.reports(rollout.id),
            before=before,
        )


def _facts(plan_: Plan) -> dict[str, object]:
    values = msgspec.to_builtins(plan_)
    return {**values, "waves": ",".join(f"{it:g}%" for it in plan_.waves), "approve": plan_.approve or None}
