"""How a deployment has ended on each device, by the signed document, the devices' states and their reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from edgeml.fleet.registry import FAILED
from edgeml.fleet.rollouts.plan import DRIFT_GRADES, Plan, Rollout
from edgeml_core import desired
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, ModelState, Report

#: Codes of failures that no report has.
DRIFTS: Final = "drift"
SLOWER: Final = "slower"


class Outcome(StrEnum):
    """The outcome of a deployment on one device."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNDER_WAY = "under way"
    SILENT = "silent"


class DeviceOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One device that the rollout reaches in its last wave: its place in the order of waves, and its outcome so far."""

    device: str
    place: int
    outcome: Outcome
    code: str = ""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """The registry's records of devices, as the controller reads them.

    Args:
        labels: the signed labels of each enrolled device.
        states: the last state of each device that was seen.
        reports: the last report of each device about this rollout's deployment.
        before: the reports about the deployments that it replaces, by device.
    """

    labels: Mapping[str, Mapping[str, str]]
    states: Mapping[str, DeviceState]
    reports: Mapping[str, Report]
    before: Mapping[str, Report] = {}


def outcomes(rollout: Rollout, document: FleetDocument, observed: Observed) -> list[DeviceOutcome]:
    """Return the outcome on each device that the whole rollout reaches, in the order in which waves reach them.

    A pinned device belongs to its pin, and is in no wave. The failures that an ended rollout keeps count: the registry
    forgets the reports with the deployment.
    """
    whole = msgspec.structs.replace(rollout.deployment, percent=100.0)
    pins = [it for it in document.deployments if it.pinned and it.name == whole.name]
    found = [
        _outcome(rollout, device, observed)
        for device, labels in observed.labels.items()
        if desired.includes(whole, device, labels) and not any(desired.includes(it, device, labels) for it in pins)
    ]
    return sorted(found, key=lambda it: (it.place, it.device))


def _outcome(rollout: Rollout, device: str, observed: Observed) -> DeviceOutcome:
    deployment, report = rollout.deployment, observed.reports.get(device)
    place, state = desired.place(deployment, device), observed.states.get(device)
    if device in rollout.failed:
        return DeviceOutcome(device=device, place=place, outcome=Outcome.FAILED, code=rollout.failed[device])
    if report is not None and report.state in FAILED:
        return DeviceOutcome(device=device, place=place, outcome=Outcome.FAILED, code=report.code)
    model = state.models.get(deployment.name) if state else None
    if _serves(model, deployment) or (report is not None and report.state == State.ACTIVE):
        if code := _regression(rollout.plan, model, report, observed.before.get(device)):
            return DeviceOutcome(device=device, place=place, outcome=Outcome.FAILED, code=code)
        return DeviceOutcome(device=device, place=place, outcome=Outcome.SUCCEEDED)
    outcome = Outcome.UNDER_WAY if report is not None else Outcome.SILENT
    return DeviceOutcome(device=device, place=place, outcome=outcome)


def _serves(model: ModelState | None, deployment: Deployment) -> bool:
    return model is not None and model.version == deployment.version and model.state == State.ACTIVE


def _regression(plan: Plan, model: ModelState | None, report: Report | None, before: Report | None) -> str:
    """Return the code of a regression that the plan counts; empty for none.

    A device's time is compared with its own version before. The card's times are another machine's.
    """
    grade = model.drift.grade if model is not None and model.drift is not None else ""
    if plan.drift and grade in DRIFT_GRADES[DRIFT_GRADES.index(plan.drift) :]:
        return DRIFTS
    if plan.slower and report is not None and before is not None:
        for now_ms, before_ms in zip(_times_ms(report), _times_ms(before), strict=True):
            if now_ms and before_ms:
                return SLOWER if now_ms > plan.slower * before_ms else ""
    return ""


def _times_ms(report: Report) -> tuple[float, float]:
    """Return a run's time as tuned and in the probe, in ms; 0 where it wasn't measured."""
    return (report.tuned.tuned_ms if report.tuned else 0.0), report.probe_ms
