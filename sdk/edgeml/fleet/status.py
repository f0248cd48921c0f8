"""The status of a fleet: the signed deployments beside the states and reports of devices.

It reads the repository and the registry; it doesn't need a running `serve`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edgeml.fleet.registry import Registry, Seen
from edgeml.repository import RepositoryFolder, opened
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import desired, names, trust
from edgeml_core.desired import Deployment
from edgeml_core.drift import Drift
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, ModelState, Report

#: The state of a device that has reported nothing about a deployment yet.
SILENT: Final = "silent"


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One enrolled device. `seen_s` is in seconds since 1970, 0 when it was never seen.

    `code` and `message` are the reason for which it refuses the fleet's signed files; empty while it accepts them.
    """

    id: str
    labels: dict[str, str]
    online: bool
    seen_s: float
    agent: str
    arch: str
    models: dict[str, ModelState]
    code: str
    message: str

    def to_dict(self) -> dict[str, object]:
        """Return the fields as `--json` prints them."""
        return dict(msgspec.to_builtins(self))


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The reason for which one device refuses a deployment, or all signed files of the fleet."""

    device: str
    code: str
    message: str


class Drifted(msgspec.Struct, frozen=True, kw_only=True):
    """A model on a device whose inputs or answers are far from its baseline."""

    device: str
    name: str
    version: str
    drift: Drift


class ServingWithdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """A model on a device that serves a withdrawn release, until another one is deployed to it."""

    device: str
    name: str
    version: str


class DeploymentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment: the number of its devices, altogether and by state."""

    id: str
    name: str
    version: str
    selector: dict[str, str]
    percent: float
    devices: int
    states: dict[str, int]
    failures: tuple[Failure, ...]


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole fleet."""

    fleet: str
    devices: int
    online: int
    deployments: tuple[DeploymentStatus, ...]
    refusals: tuple[Failure, ...]
    drifted: tuple[Drifted, ...]
    withdrawn: tuple[ServingWithdrawn, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the fields as `--json` prints them."""
        return dict(msgspec.to_builtins(self))


def status(repo: Path, registry: Registry | None = None) -> FleetStatus:
    """Return the status of a fleet.

    Args:
        repo: the repository's folder.
        registry: the devices' states and reports; by default those of `fleet.db` in the repository.

    Raises:
        UsageError: `repo-invalid`. DeviceError: the database can't be read.
    """
    repository = opened(repo)
    document = repository.document()
    wanted = {name: desired.wanted_by(document, name) for name in document.devices}
    with _opened(repo, registry) as opened_registry:
        seen = opened_registry.devices()
        reports = {it.id: opened_registry.reports(it.id) for it in document.deployments}
    deployments = tuple(_deployment(it, wanted, seen, reports[it.id]) for it in document.deployments)
    states = {name: seen[name].state for name in document.devices if name in seen}
    return FleetStatus(
        fleet=document.fleet,
        devices=len(document.devices),
        online=sum(state.online for state in states.values()),
        deployments=deployments,
        refusals=tuple(
            Failure(device=name, code=state.code, message=state.message) for name, state in states.items() if state.code
        ),
        drifted=tuple(_drifted(states)),
        withdrawn=tuple(_withdrawn(repository, states)),
    )


def devices(repo: Path, registry: Registry | None = None) -> list[DeviceStatus]:
    """Return every enrolled device with its last state. Arguments and errors are those of `status`."""
    with _opened(repo, registry) as opened_registry:
        seen = opened_registry.devices()
    return [_device(name, device.labels, seen.get(name)) for name, device in opened(repo).document().devices.items()]


def _drifted(states: Mapping[str, DeviceState]) -> Iterator[Drifted]:
    for device, state in states.items():
        for name, model in state.models.items():
            if model.drift is not None and model.drift.psi:
                yield Drifted(device=device, name=name, version=model.version, drift=model.drift)


def _withdrawn(repository: RepositoryFolder, states: Mapping[str, DeviceState]) -> Iterator[ServingWithdrawn]:
    """Find the withdrawn releases that devices serve, also on a device that hasn't seen the withdrawal yet."""
    withdrawn = repository.releases.withdrawn()
    for device, state in states.items():
        for name, model in state.models.items():
            stem = names.bundle_stem(name, model.version, model.target, model.format)
            if trust.manifest_target(stem) in withdrawn:
                yield ServingWithdrawn(device=device, name=name, version=model.version)


@contextmanager
def _opened(repo: Path, registry: Registry | None) -> Iterator[Registry]:
    if registry is not None:
        yield registry
        return
    with closing(Registry(repo / DATABASE_FILE)) as default:
        yield default


def _device(name: str, labels: dict[str, str], seen: Seen | None) -> DeviceStatus:
    state = seen.state if seen else None
    return DeviceStatus(
        id=name,
        labels=labels,
        online=state.online if state else False,
        seen_s=seen.seen_s if seen else 0.0,
        agent=state.agent if state else "",
        arch=state.arch if state else "",
        models=state.models if state else {},
        code=state.code if state else "",
        message=state.message if state else "",
    )


def _deployment(
    deployment: Deployment,
    wanted: Mapping[str, Mapping[str, Deployment]],
    seen: Mapping[str, Seen],
    reports: Mapping[str, Report],
) -> DeploymentStatus:
    wanting = [name for name, of_device in wanted.items() if of_device.get(deployment.name) == deployment]
    states = Counter(_state(deployment, seen.get(name), reports.get(name)) for name in wanting)
    failures = [
        Failure(device=name, code=reports[name].code, message=reports[name].message)
        for name in wanting
        if name in reports and reports[name].code
    ]
    return DeploymentStatus(
        id=deployment.id,
        name=deployment.name,
        version=deployment.version,
        selector=deployment.selector,
        percent=deployment.percent,
        devices=len(wanting),
        states=dict(sorted(states.items())),
        failures=tuple(failures),
    )


def _state(deployment: Deployment, seen: Seen | None, report: Report | None) -> str:
    """The deployment's state on one device: from the retained state, which outlives lost reports, else the report."""
    model = seen.state.models.get(deployment.name) if seen else None
    if model is not None and model.version == deployment.version and model.state == State.ACTIVE:
        return model.state
    return report.state if report else SILENT
