"""An announcement to connected devices, at several sizes of the fleet: its time, and what host and broker spend on it.

All devices install the first version, and rest. Then one deployment of the next version to all is signed, as `edgeml
fleet deploy` does. Its time ends when the last device has received and verified the signed files and has decided.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeml import repository
from fleet_parts import growth
from fleet_parts.site import MODEL, VERSIONS, site, usage
from harness import host
from harness.figures import Figure, HostLoad, Run, most

SIZES: Final = (500, 1000, 2000, 5000)
QUICK_SIZES: Final = (20, 40)
#: Seconds in which nothing happens but pings.
REST_S: Final = 10.0
QUICK_REST_S: Final = 0.5
AIM_S: Final = most(60.0)
#: The figures' names begin with it: their sides are sizes of the fleet.
CASE: Final = "connected devices"
KIB: Final = 1024
MIB: Final = 1024**2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The costs at one size. CPU is in seconds, memory in bytes; `joined` is until all serve the first version."""

    devices: int
    joined_s: float
    decided_s: float
    served_s: float
    host_joined_cpu_s: float
    host_cpu_s: float
    host_rest_cores: float
    host_peak_bytes: int
    broker_joined_cpu_s: float
    broker_cpu_s: float
    broker_rest_cores: float
    broker_peak_bytes: int
    repeated: int
    load: HostLoad


def figures(run: Run) -> Iterator[Figure]:
    """Yield the figures of all sizes; each one's value is that of the largest."""
    outcomes = []
    for size in run.size(SIZES, QUICK_SIZES):
        outcomes.append(_announce(run.folder / f"announce-{size}", size, run.size(REST_S, QUICK_REST_S)))
        # A later size may fail for want of memory or time.
        print(outcomes[-1], file=sys.stderr, flush=True)
    last = outcomes[-1]
    yield Figure(
        name=f"{CASE}: time until all have decided",
        value=last.decided_s,
        unit="s",
        sides=_sides(outcomes, [it.decided_s for it in outcomes]),
        sides_unit="s",
        host=last.load,
        aim=AIM_S,
        note=f"at {last.devices:,}; all served after {last.served_s:.1f} s; {last.repeated} steps were repeated",
    )
    yield from _cpu(outcomes, "host", "an announcement and its update", [it.host_cpu_s for it in outcomes])
    yield from _cpu(outcomes, "host", "joining and the first update", [it.host_joined_cpu_s for it in outcomes])
    yield from _cpu(outcomes, "broker", "an announcement and its update", [it.broker_cpu_s for it in outcomes])
    yield from _cpu(outcomes, "broker", "joining and the first update", [it.broker_joined_cpu_s for it in outcomes])
    yield from _memory(outcomes, "host", [it.host_peak_bytes for it in outcomes])
    yield from _memory(outcomes, "broker", [it.broker_peak_bytes for it in outcomes])
    for who, cores in (
        ("host", [it.host_rest_cores for it in outcomes]),
        ("broker", [it.broker_rest_cores for it in outcomes]),
    ):
        yield Figure(
            name=f"{CASE}: {who}'s cores at rest",
            value=cores[-1],
            unit="cores",
            sides=_sides(outcomes, cores),
            sides_unit="cores",
            host=last.load,
        )


def _sides(outcomes: Sequence[Outcome], values: Sequence[float]) -> dict[str, float]:
    return {f"{it.devices:,}": round(value, 4) for it, value in zip(outcomes, values, strict=True)}


def _cpu(outcomes: Sequence[Outcome], who: str, what: str, seconds: Sequence[float]) -> Iterator[Figure]:
    """Yield the CPU time of each device at the largest size, with the line through all sizes."""
    last = outcomes[-1]
    costs = {it.devices: max(value, 0.01) for it, value in zip(outcomes, seconds, strict=True)}
    fixed_s, each_s = growth.line(costs)
    fit = f"{fixed_s:.2f} s + {each_s * 1000:.3f} ms a device; exponent {growth.exponent(costs):.2f}"
    yield Figure(
        name=f"{CASE}: {who}'s CPU for {what}, each",
        value=seconds[-1] / last.devices * 1000,
        unit="ms",
        sides=_sides(outcomes, seconds),
        sides_unit="s in all",
        host=last.load,
        note=f"at {last.devices:,}; {fit}",
    )


def _memory(outcomes: Sequence[Outcome], who: str, peaks: Sequence[int]) -> Iterator[Figure]:
    last = outcomes[-1]
    fixed, each = growth.line({it.devices: float(value) for it, value in zip(outcomes, peaks, strict=True)})
    exponent = growth.exponent({it.devices: float(value) for it, value in zip(outcomes, peaks, strict=True)})
    yield Figure(
        name=f"{CASE}: {who}'s peak RSS",
        value=peaks[-1] / MIB,
        unit="MiB",
        sides=_sides(outcomes, [it / MIB for it in peaks]),
        sides_unit="MiB",
        host=last.load,
        note=f"at {last.devices:,}; {fixed / MIB:.1f} MiB + {each / KIB:.2f} KiB a device; exponent {exponent:.2f}",
    )


def _announce(folder: Path, devices: int, rest_s: float) -> Outcome:
    begun_s = time.monotonic()
    with site(folder, devices) as running, host.watching() as watch:
        swarm, pids = running.swarm, (running.host_pid, running.broker.pid)
        first, second = VERSIONS[:2]
        running.wait(lambda: swarm.serving(first) == devices, "the first version everywhere")
        joined_s, joined = time.monotonic() - begun_s, [usage(it) for it in pids]
        time.sleep(rest_s)
        rested = [usage(it) for it in pids]
        deployed_s = time.monotonic()
        repository.deploy(running.repo, MODEL, second, selector="")
        document = running.document()
        running.wait(lambda: swarm.decided(document) == devices, "the decisions")
        running.wait(lambda: swarm.serving(second) == devices, "the next version everywhere")
        served_s = time.monotonic() - deployed_s
        # The last reports are on their way.
        time.sleep(rest_s / 10)
        ended = [usage(it) for it in pids]
        decided_s, repeated = swarm.last_s(document) - deployed_s, swarm.errors.total()
    rests = [(after.cpu_s - before.cpu_s) / rest_s for before, after in zip(joined, rested, strict=True)]
    spent = [after.cpu_s - before.cpu_s for before, after in zip(rested, ended, strict=True)]
    return Outcome(
        devices=devices,
        joined_s=joined_s,
        decided_s=decided_s,
        served_s=served_s,
        host_joined_cpu_s=joined[0].cpu_s,
        host_cpu_s=spent[0],
        host_rest_cores=rests[0],
        host_peak_bytes=ended[0].peak_bytes,
        broker_joined_cpu_s=joined[1].cpu_s,
        broker_cpu_s=spent[1],
        broker_rest_cores=rests[1],
        broker_peak_bytes=ended[1].peak_bytes,
        repeated=repeated,
        load=watch.load,
    )
