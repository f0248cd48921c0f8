"""The contents of the dashboard and the API: the repository and the registry, read when they are asked for.

Nothing here knows HTTP. Whole-fleet figures are read at most once in `AGE_MAX_S`, for all readers together.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final, Generic, TypeVar

import msgspec

from edgeml.fleet import status
from edgeml.fleet.registry import Registry
from edgeml.fleet.rollouts import controller
from edgeml.fleet.rollouts.outcomes import DeviceOutcome, Outcome
from edgeml.fleet.rollouts.plan import Rollout
from edgeml.fleet.rollouts.steering import Steering
from edgeml.fleet.status import Chosen, DeviceStatus, FleetStatus
from edgeml.repository import Release, RepositoryFolder, layout, releases
from edgeml.repository import audit as audit_log
from edgeml.repository.audit import AddedEntries, Checked, Entry
from edgeml_core import decoding, names, trust
from edgeml_core.card import Measurements
from edgeml_core.desired import HASH_STEPS
from edgeml_core.errors import UsageError
from edgeml_core.messages import DeviceState, Report

#: Seconds for which figures of the whole fleet are shown again, at least; and as a multiple of the time to read them.
AGE_MAX_S: Final = 1.0
AGE_PER_READ: Final = 5.0
#: Values of one label that the overview lists, the most frequent first. It lists each released version.
GROUPS_MAX: Final = 50
#: Devices of a rollout that are named: failed ones first.
NAMED_MAX: Final = 200
T = TypeVar("T")


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that have one value of a label, or run one version of a model."""

    key: str
    value: str
    devices: int
    online: int
    well: int
    failed: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole fleet: its status, its devices by label, and by the version of each model."""

    status: FleetStatus
    well: int
    failed: int
    labels: dict[str, tuple[Group, ...]]
    versions: tuple[Group, ...]


class SeenReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report of a device, and its time of arrival in seconds since 1970."""

    seen_s: float
    report: Report


class SeenState(msgspec.Struct, frozen=True, kw_only=True):
    """A state of a device, and its time of arrival in seconds since 1970."""

    seen_s: float
    state: DeviceState


class DeviceCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was issued to a device: its serial number in hexadecimal, its end in seconds since 1970."""

    serial: str
    ends_s: float
    revoked: bool


class DeviceDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One device: its status, its certificates, its last states and reports, the newest first."""

    device: DeviceStatus
    certificates: tuple[DeviceCertificate, ...]
    states: tuple[SeenState, ...]
    reports: tuple[SeenReport, ...]


class DevicePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some devices by id; `after` continues behind them, and is empty at the end."""

    devices: tuple[DeviceStatus, ...]
    after: str


class WaveProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One wave: the share that is reached with it, and its own devices by outcome. `state` is done, current or next."""

    number: int
    percent: float
    state: str
    devices: int
    outcomes: dict[str, int]


class RolloutProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout with its waves, and the devices of its begun waves that failed or have yet to end."""

    rollout: Rollout
    waves: tuple[WaveProgress, ...]
    devices: tuple[DeviceOutcome, ...]
    unnamed: int


class ReleaseDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A release, by the name of its bundle, with the measurements that are signed with it."""

    id: str
    release: Release
    measurements: Measurements | None


class ViewModel:
    """The readable fleet.

    Args:
        repository: opened.
        registry: the devices' states and reports.
    """

    def __init__(self, repository: RepositoryFolder, registry: Registry) -> None:
        self._repository = repository
        self._registry = registry
        self._steering = Steering(repository, registry)
        self._overview = Recent(self._read_overview)
        self._added = AddedEntries(repository.audit, lambda: audit_log.parse_head(repository.document().audit))

    def overview(self) -> Overview:
        """Return the figures of the whole fleet, at most a few seconds old."""
        return self._overview.get()

    def devices(self, chosen: Chosen, *, after: str = "", limit: int) -> DevicePage:
        """Return the chosen devices behind an id.

        Raises:
            UsageError: `usage`, for a malformed selector.
        """
        found = status.devices(self._repository.folder, self._registry, chosen=chosen, after=after, limit=limit + 1)
        page = found[:limit]
        return DevicePage(devices=tuple(page), after=page[-1].id if len(found) > limit else "")

    def device(self, name: str) -> DeviceDetails:
        """Return one device.

        Raises:
            UsageError: `device-unknown`.
        """
        # The ids are sorted: the device stands first behind the largest id below it.
        found = status.devices(self._repository.folder, self._registry, after=_before(name), limit=1)
        if not found or found[0].id != name:
            raise UsageError("device-unknown", f"no device {name!r} is enrolled", "see the table of devices")
        states = (
            SeenState(seen_s=it.seen_s, state=it.message)
            for it in self._registry.history(name, "state")
            if isinstance(it.message, DeviceState)
        )
        reports = (
            SeenReport(seen_s=it.seen_s, report=it.message)
            for it in self._registry.history(name, "report")
            if isinstance(it.message, Report)
        )
        certificates = tuple(
            DeviceCertificate(serial=f"{it.serial:x}", ends_s=it.ends_s, revoked=it.revoked)
            for it in reversed(self._repository.enrollments.certificates(name))
        )
        return DeviceDetails(device=found[0], certificates=certificates, states=tuple(states), reports=tuple(reports))

    def rollouts(self) -> list[Rollout]:
        """Return the rollouts, the newest first."""
        return self._steering.rollouts.all()

    def rollout(self, name: str) -> RolloutProgress:
        """Return how far a rollout is.

        Raises:
            UsageError: `rollout-unknown`.
        """
        found = self._find(name)
        reached = self._steering.reached(found)
        waves = _waves(found, reached)
        begun = [it for it in controller.begun(found, reached) if it.outcome != Outcome.SUCCEEDED]
        begun.sort(key=lambda it: it.outcome != Outcome.FAILED)
        named = tuple(begun[:NAMED_MAX])
        return RolloutProgress(rollout=found, waves=waves, devices=named, unnamed=len(begun) - len(named))

    def steer(self, name: str, act: str, *, actor: str, wave: int | None = None) -> Rollout:
        """Pause, resume, approve, abort or roll back a rollout.

        Raises:
            UsageError: `rollout-unknown`; `usage`, when its phase doesn't permit the act, or its next wave is another.
        """
        found = self._find(name)
        return self._steering.act(found.id, act, now=layout.utc_now(), actor=actor, wave=wave)

    def releases(self) -> list[Release]:
        """Return the releases in the order of their publication."""
        return releases(self._repository)

    def release(self, name: str) -> ReleaseDetails:
        """Return one release, by the name of its bundle.

        Raises:
            UsageError: `release-unknown`.
        """
        for it in self.releases():
            if it.manifest.stem == name:
                path = trust.measurements_target(name)
                is_measured = path in self._repository.releases.digests()
                data = self._repository.releases.read([path])[path] if is_measured else None
                measured = decoding.from_json(data, Measurements) if data is not None else None
                return ReleaseDetails(id=name, release=it, measurements=measured)
        raise UsageError("release-unknown", f"there is no release {name!r}", "see the list of releases")

    def audit(self, *, last: int, before: int = 0) -> list[Entry]:
        """Return the newest entries of the audit log, the newest first.

        Args:
            last: their number at most.
            before: only entries with a smaller number; 0 sets no bound.

        Raises:
            RejectedError: `audit-broken`, when a line is no entry.
        """
        found = self._repository.audit.newest(last, before)
        return [it for it in found if not before or it.number < before]

    def check_audit(self) -> Checked | None:
        """Verify what was added to the audit log, at first the whole log; None while another request does that.

        Raises:
            RejectedError: `audit-broken`.
        """
        return self._added.check()

    def _find(self, name: str) -> Rollout:
        for it in self.rollouts():
            if it.id == name:
                return it
        raise UsageError("rollout-unknown", f"there is no rollout {name!r}", "see the list of rollouts")

    def _read_overview(self) -> Overview:
        folder = self._repository.folder
        devices = status.devices(folder, self._registry)
        by_label: dict[str, _Groups] = {}
        versions = _Groups()
        for device in devices:
            for key, value in device.labels.items():
                by_label.setdefault(key, _Groups()).add(key, value, device)
            for name, model in device.models.items():
                versions.add(name, model.version, device)
        released = {(it.manifest.name, it.manifest.version) for it in self.releases()}
        return Overview(
            status=status.status(folder, self._registry),
            well=sum(it.is_well for it in devices),
            failed=sum(it.has_failed for it in devices),
            labels={key: groups.largest() for key, groups in sorted(by_label.items())},
            versions=versions.largest(released),
        )


class _Groups:
    """Devices counted by key and value."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {}

    def add(self, key: str, value: str, device: DeviceStatus) -> None:
        counts = self._counts.setdefault((key, value), Counter())
        counts.update(devices=1, online=device.online, well=device.is_well, failed=device.has_failed)

    def largest(self, always: Collection[tuple[str, str]] = ()) -> tuple[Group, ...]:
        found = sorted(self._counts.items(), key=lambda it: (-it[1]["devices"], it[0]))
        return tuple(
            Group(
                key=key,
                value=value,
                devices=counts["devices"],
                online=counts["online"],
                well=counts["well"],
                failed=counts["failed"],
            )
            for place, ((key, value), counts) in enumerate(found)
            if place < GROUPS_MAX or (key, value) in always
        )


class Recent(Generic[T]):
    """A value that one thread at a time reads again when it is old; the others get it, or wait for the first."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._reading = threading.Lock()
        self._held: tuple[T, float] | None = None

    def get(self) -> T:
        """Return the value."""
        held = self._held
        if held is not None and (time.monotonic() < held[1] or not self._reading.acquire(blocking=False)):
            return held[0]
        if held is None:
            self._reading.acquire()
        try:
            if self._held is not held and self._held is not None:
                return self._held[0]
            began_s = time.monotonic()
            value = self._read()
            took_s = time.monotonic() - began_s
            self._held = value, time.monotonic() + max(AGE_MAX_S, AGE_PER_READ * took_s)
            return value
        finally:
            self._reading.release()


def _before(name: str) -> str:
    """Return a text that sorts before `name`, with no other id between them."""
    return name[:-1] + chr(ord(name[-1]) - 1) + "\U0010ffff" if names.is_name(name) else name


def _steps(percent: float) -> int:
    """Return the number of places below a percentage, as `desired.includes` counts them."""
    return round(percent * HASH_STEPS / 100)


def _waves(rollout: Rollout, reached: Sequence[DeviceOutcome]) -> tuple[WaveProgress, ...]:
    waves, first = [], 0
    for number, percent in enumerate(rollout.plan.waves):
        last = _steps(rollout.percent if number == rollout.wave else controller.share(reached, percent))
        outcomes = Counter(str(it.outcome) for it in reached if first <= it.place < last)
        state = "done" if number < rollout.wave else "current" if number == rollout.wave else "next"
        waves.append(
            WaveProgress(
                number=number + 1,
                percent=percent,
                state=state,
                devices=outcomes.total(),
                outcomes=dict(sorted(outcomes.items())),
            )
        )
        first = max(first, last)
    return tuple(waves)
