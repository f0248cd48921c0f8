"""`GET /metrics`: counts of the fleet in Prometheus' text format. No series has a device's name."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from edgeml.fleet.rollouts.plan import Phase
from edgeml.fleet.status import CHOSEN_STATES
from edgeml.fleet.web.view_model import ViewModel

#: The state of devices that report one which isn't known here.
OTHER: Final = "other"
_STARTED_S: Final = time.time()
Sample = tuple[dict[str, str], float]


def text(view: ViewModel) -> str:
    """Write all metrics."""
    return "".join(_lines(view))


def _lines(view: ViewModel) -> Iterator[str]:
    overview, used = view.overview(), resource.getrusage(resource.RUSAGE_SELF)
    found = overview.status
    one: dict[str, tuple[str, str, float]] = {
        "edgeml_fleet_devices": ("gauge", "Enrolled devices.", found.devices),
        "edgeml_fleet_devices_online": ("gauge", "Devices that are connected.", found.online),
        "edgeml_fleet_devices_well": ("gauge", "Devices that are online and run all that they should.", overview.well),
        "edgeml_fleet_devices_failed": ("gauge", "Devices on which something has failed.", overview.failed),
        "edgeml_fleet_devices_drifting": (
            "gauge",
            "Devices with a model that drifts.",
            len({it.device for it in found.drifted}),
        ),
        "edgeml_fleet_hosts": ("gauge", "Hosts that serve the fleet.", len(found.hosts)),
        "edgeml_fleet_host_start_seconds": ("gauge", "Start of this host, in seconds since 1970.", _STARTED_S),
        "edgeml_fleet_host_cpu_seconds_total": (
            "counter",
            "CPU time of this host's process.",
            used.ru_utime + used.ru_stime,
        ),
        "edgeml_fleet_host_memory_peak_bytes": (
            "gauge",
            "Largest memory of this host's process.",
            used.ru_maxrss * 1024,
        ),
    }
    for name, (kind, about, value) in one.items():
        yield from _metric(name, kind, about, [({}, value)])
    states = [
        ({"deployment": it.id, "model": it.name, "version": it.version, "state": state}, float(count))
        for it in found.deployments
        for state, count in _known(it.states).items()
    ]
    yield from _metric("edgeml_fleet_deployment_devices", "gauge", "Devices of a deployment by state.", states)
    released = {(it.manifest.name, it.manifest.version) for it in view.releases()}
    versions = [
        ({"model": it.key, "version": it.value}, float(it.devices))
        for it in overview.versions
        if (it.key, it.value) in released
    ]
    yield from _metric("edgeml_fleet_model_devices", "gauge", "Devices that have a released version.", versions)
    rollouts = view.rollouts()
    phases = Counter(it.phase for it in rollouts)
    by_phase = [({"phase": str(phase)}, float(phases[phase])) for phase in Phase]
    yield from _metric("edgeml_fleet_rollouts", "gauge", "Rollouts by phase.", by_phase)
    shares = [({"rollout": it.id, "model": it.deployment.name}, it.percent) for it in rollouts if it.is_open]
    yield from _metric("edgeml_fleet_rollout_percent", "gauge", "Share that an open rollout has signed.", shares)


def _known(states: Mapping[str, int]) -> Counter[str]:
    """Join the states that no agent has: a hostile device could make up any number of series."""
    joined: Counter[str] = Counter()
    for state, count in states.items():
        joined[state if state in CHOSEN_STATES else OTHER] += count
    return joined


def _metric(name: str, kind: str, about: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {about}\n# TYPE {name} {kind}\n"
    for labels, value in samples:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{{{pairs}}} {value:.12g}\n" if pairs else f"{name} {value:.12g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
