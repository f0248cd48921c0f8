"""The status of a fleet: the signed deployments beside the states and reports of devices.

It reads the repository and the registry; it doesn't need a running `serve`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edgeml.fleet.leadership import ServingHost, hosts
from edgeml.fleet.registry import FAILED, Registry, Seen
from edgeml.repository import RepositoryFolder, opened
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core import desired, names, selectors, trust
from edgeml_core.desired import Deployment, FleetDocument
from edgeml_core.drift import Drift
from edgeml_core.lifecycle import State
from edgeml_core.messages import DeviceState, ModelState, Report

#: The state of a device that has reported nothing about a deployment yet.
SILENT: Final = "silent"

#: Devices that are read at a time: their rows are few MB.
BLOCK_DEVICES: Final = 5000


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One enrolled device. `seen_s` is in seconds since 1970, 0 when it was never seen.

    `deployments` has the state of each deployment that it should run, by the model's name. `code` and `message` are the
    reason for which it refuses the fleet's signed files; empty while it accepts them.
    """

    id: str
    labels: dict[str, str]
    online: bool
    seen_s: float
    agent: str
    arch: str
    models: dict[str, ModelState]
    deployments: dict[str, str]
    code: str
    message: str

    @property
    def has_failed(self) -> bool:
        """Whether it refuses the signed files, or a deployment has ended badly on it."""
        return bool(self.code) or not FAILED.isdisjoint(self.deployments.values())

    @property
    def is_well(self) -> bool:
        """Whether it is online and runs all that it should."""
        return (
            self.online
            and not self.code
            and all(it in {State.ACTIVE, State.REMOVED} for it in self.deployments.values())
        )

    def to_dict(self) -> dict[str, object]:
        """Return the fields as `--json` prints them."""
        return dict(msgspec.to_builtins(self))


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of devices, by all that is given.

    Args:
        state: of one of its deployments; or `failed`, `online`, `offline`, `well` or `unwell`.
        labels: pairs that it must have.
        selector: the text of a selector that must match it.
        version: of a model that it has, as `1.0` or `minilm:1.0`.
    """

    state: str = ""
    labels: Mapping[str, str] = {}
    selector: str = selectors.EVERYONE
    version: str = ""

    def admits(self, device: DeviceStatus) -> bool:
        """Return whether a device is among them."""
        return (
            self.labels.items() <= device.labels.items()
            and selectors.matches(self.selector, device.id, device.labels)
            and (not self.version or self._has_version(device))
            and self._has_state(device)
        )

    def _has_state(self, device: DeviceStatus) -> bool:
        match self.state:
            case "":
                return True
            case "failed":
                return device.has_failed
            case "online" | "offline":
                return device.online == (self.state == "online")
            case "well" | "unwell":
                return device.is_well == (self.state == "well")
        return self.state in device.deployments.values()

    def _has_version(self, device: DeviceStatus) -> bool:
        name, _, version = self.version.rpartition(":")
        return any(model.version == version and name in {"", it} for it, model in device.models.items())


#: The values of `Chosen.state`.
CHOSEN_STATES: Final = ("failed", "online", "offline", "well", "unwell", SILENT, *State)
EVERY_DEVICE: Final = Chosen()


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
    selector: str
    percent: float
    devices: int
    states: dict[str, int]
    failures: tuple[Failure, ...]


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole fleet. `hosts` have given a sign of life lately; without one nothing is delivered or recorded."""

    fleet: str
    hosts: tuple[ServingHost, ...]
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
    document, labels = repository.document(), repository.labels()
    counts = {it.id: _Counts() for it in document.deployments}
    states: dict[str, DeviceState] = {}
    with _opened(repo, registry) as reported:
        serving = tuple(hosts(reported.database))
        for row in _rows(document, labels, reported, ""):
            for deployment in row.wanted.values():
                counts[deployment.id].add(row.id, _state(deployment, row), row.reports.get(deployment.id))
            if row.seen is not None:
                states[row.id] = row.seen.state
    return FleetStatus(
        fleet=document.fleet,
        hosts=serving,
        devices=len(labels),
        online=sum(state.online for state in states.values()),
        deployments=tuple(_deployment(it, counts[it.id]) for it in document.deployments),
        refusals=tuple(
            Failure(device=name, code=state.code, message=state.message) for name, state in states.items() if state.code
        ),
        drifted=tuple(_drifted(states)),
        withdrawn=tuple(_withdrawn(repository, states)),
    )


def devices(
    repo: Path,
    registry: Registry | None = None,
    *,
    chosen: Chosen = EVERY_DEVICE,
    after: str = "",
    limit: int | None = None,
) -> list[DeviceStatus]:
    """Return enrolled devices with the last state of each, by id.

    Args:
        repo: the repository's folder.
        registry: as for `status`.
        chosen: the devices to return.
        after: only devices whose ids come after it: the last one of the page before.
        limit: the number of devices; None sets no bound.

    Raises:
        UsageError: `repo-invalid`. DeviceError: the database can't be read.
    """
    repository = opened(repo)
    document, labels = repository.document(), repository.labels()
    with _opened(repo, registry) as reported:
        every = (_device(row, labels[row.id]) for row in _rows(document, labels, reported, after))
        return list(itertools.islice(filter(chosen.admits, every), limit))


class _Row(msgspec.Struct, frozen=True):
    """A device with its deployments by model, its state, and its reports by deployment."""

    id: str
    wanted: Mapping[str, Deployment]
    seen: Seen | None
    reports: Mapping[str, Report]


def _rows(
    document: FleetDocument, labels: Mapping[str, Mapping[str, str]], registry: Registry, after: str
) -> Iterator[_Row]:
    """Read the devices after an id, by blocks of growing length: the first page is there soon."""
    ids, start, length = sorted(it for it in labels if it > after), 0, BLOCK_DEVICES // 10
    while block := ids[start : start + length]:
        start, length = start + length, BLOCK_DEVICES
        seen = registry.devices(first=block[0], last=block[-1])
        reports = {it.id: registry.reports(it.id, first=block[0], last=block[-1]) for it in document.deployments}
        for name in block:
            own = {deployment: by_device[name] for deployment, by_device in reports.items() if name in by_device}
            yield _Row(name, desired.wanted_by(document, name, labels[name]), seen.get(name), own)


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


def _device(row: _Row, labels: dict[str, str]) -> DeviceStatus:
    state = row.seen.state if row.seen else None
    return DeviceStatus(
        id=row.id,
        labels=labels,
        online=state.online if state else False,
        seen_s=row.seen.seen_s if row.seen else 0.0,
        agent=state.agent if state else "",
        arch=state.arch if state else "",
        models=state.models if state else {},
        deployments={model: _state(deployment, row) for model, deployment in row.wanted.items()},
        code=state.code if state else "",
        message=state.message if state else "",
    )


class _Counts:
    """The devices of one deployment, counted by state, and its failures."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.failures: list[Failure] = []

    def add(self, device: str, state: str, report: Report | None) -> None:
        self.states[state] += 1
        if report is not None and report.code:
            self.failures.append(Failure(device=device, code=report.code, message=report.message))


def _deployment(deployment: Deployment, counts: _Counts) -> DeploymentStatus:
    return DeploymentStatus(
        id=deployment.id,
        name=deployment.name,
        version=deployment.version,
        selector=deployment.selector,
        percent=deployment.percent,
        devices=counts.states.total(),
        states=dict(sorted(counts.states.items())),
        failures=tuple(counts.failures),
    )


def _state(deployment: Deployment, row: _Row) -> str:
    """The deployment's state on one device: from the retained state, which outlives lost reports, else the report."""
    model = row.seen.state.models.get(deployment.name) if row.seen else None
    if model is not None and model.version == deployment.version and model.state in {State.ACTIVE, State.REMOVED}:
        return model.state
    report = row.reports.get(deployment.id)
    return report.state if report else SILENT
