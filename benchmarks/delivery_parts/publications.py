"""One release for eight light devices: publications per chunk, the cost of a slow device, and the broker's memory.

A light device is the agent's link, fetch and files in this process; host and Mosquitto are processes of their own.
`agents` counts the same with eight real agents.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from harness import host
from harness.figures import Aim, Figure, HostLoad, Run, most
from support import brokers, light_agents
from support.light_agents import LightAgent, Publications, connected, fetch_all, published

DEVICES: Final = 8
SLOW_DEVICE: Final = "slow"
#: Seconds that the slow device takes over each chunk: about a hundred times the others' time.
SLOW_CHUNK_S: Final = 0.02
#: Seconds between the starts of devices that don't start together.
APART_S: Final = 0.4
TOGETHER_AIM: Final = most(1.3)
APART_AIM: Final = most(2.0)
SLOWER_AIM: Final = most(1.1)
MIB: Final = 1024**2


@dataclass(frozen=True, kw_only=True)
class Size:
    """The runs of each case, and the bytes of the weights."""

    runs: int
    weights_bytes: int


FULL: Final = Size(runs=3, weights_bytes=96 * MIB)
QUICK: Final = Size(runs=1, weights_bytes=2 * MIB)


class Outcome(NamedTuple):
    """The result of one run: publications per chunk, seconds of each device, bytes of the broker's peak, host load."""

    per_chunk: float
    seconds: list[float]
    broker_peak_bytes: int
    load: HostLoad


def figures(run: Run) -> Iterator[Figure]:
    """Yield the figures of each case."""
    size, folder = run.size(FULL, QUICK), run.folder / "publications"
    for name, aim, apart_s in (
        ("that start together", TOGETHER_AIM, 0.0),
        (f"that start {APART_S} s apart", APART_AIM, APART_S),
    ):
        cases = (folder / f"apart-{apart_s}-{number}" for number in range(size.runs))
        outcomes = [_deliver(case, DEVICES, size, apart_s=apart_s) for case in cases]
        yield _publications(f"{DEVICES} light devices {name}", outcomes, aim)
    alone, slow = [], []
    for number in range(size.runs):
        alone.append(_deliver(folder / f"alone-{number}", DEVICES - 1, size))
        slow.append(_deliver(folder / f"slow-{number}", DEVICES - 1, size, with_slow=True))
    yield _publications(f"{DEVICES - 1} light devices beside a slow one", slow, None)
    yield from _slow_device(alone, slow)


def _publications(case: str, outcomes: Sequence[Outcome], aim: Aim | None) -> Figure:
    worst = max(outcomes, key=lambda it: it.per_chunk)
    sides = {f"run {number}": round(it.per_chunk, 3) for number, it in enumerate(outcomes, 1)}
    return Figure(
        name=f"publications per chunk, {case}, worst run", value=worst.per_chunk, sides=sides, host=worst.load, aim=aim
    )


def _slow_device(alone: Sequence[Outcome], slow: Sequence[Outcome]) -> Iterator[Figure]:
    # The best run of each: other programs on the host only ever make a run longer.
    best = [min(runs, key=lambda it: statistics.mean(it.seconds)) for runs in (alone, slow)]
    without_s, with_s = (statistics.mean(it.seconds) for it in best)
    yield Figure(
        name=f"time of {DEVICES - 1} devices beside one that takes {SLOW_CHUNK_S * 1000:.0f} ms a chunk",
        value=with_s / without_s,
        unit="x",
        sides={"without it": round(without_s, 2), "beside it": round(with_s, 2)},
        sides_unit="s",
        host=best[1].load,
        aim=SLOWER_AIM,
    )
    peak = max((*alone, *slow), key=lambda it: it.broker_peak_bytes)
    yield Figure(name="peak memory of the broker", value=peak.broker_peak_bytes / MIB, unit="MiB", host=peak.load)


def _deliver(folder: Path, count: int, size: Size, *, apart_s: float = 0.0, with_slow: bool = False) -> Outcome:
    """Deliver until `count` devices have the release; a slow one beside them is not awaited."""
    devices = [f"board-{number}" for number in range(count)]
    enrolled = [*devices, SLOW_DEVICE] if with_slow else devices
    release = published(folder / "repo", enrolled, weights_bytes=size.weights_bytes)

    async def fetch(url: str) -> list[float]:
        agents = [LightAgent(folder, name, url) for name in devices]
        slow = [LightAgent(folder, SLOW_DEVICE, url, chunk_s=SLOW_CHUNK_S)] if with_slow else []
        async with connected([*agents, *slow]):
            lagging = asyncio.create_task(fetch_all(slow, release))
            seconds = await fetch_all(agents, release, apart_s=apart_s)
            lagging.cancel()
            await asyncio.gather(lagging, return_exceptions=True)
            return seconds

    with brokers.mosquitto(folder / "broker") as broker, light_agents.host(folder / "repo", broker.url):
        counted = Publications(broker.port)
        with host.watching() as watch:
            seconds = asyncio.run(fetch(broker.url))
        counted.close()
        return Outcome(counted.per_chunk(release), seconds, peak_bytes(broker.pid), watch.load)


def peak_bytes(pid: int) -> int:
    """Return the peak memory of a process in bytes."""
    for field in Path(f"/proc/{pid}/status").read_text().splitlines():
        if field.startswith("VmHWM:"):
            return int(field.split()[1]) * 1024
    raise RuntimeError("the kernel doesn't report a process's peak memory")
