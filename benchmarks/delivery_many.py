"""One release for eight devices: publications per chunk, what a slow device costs the others, and the broker's memory.

The devices are the agent's link, fetch and files in this process; host and Mosquitto are processes of their own.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Final, NamedTuple

from integration import brokers
from integration.light_agents import LightAgent, Publications, connected, fetch_all, host, published

WEIGHTS_BYTES: Final = 48 * 1024**2
DEVICES: Final = 8
SLOW_CHUNK_S: Final = 0.02
SLOWER_MOST: Final = 0.1
RUNS: Final = 3
MIB: Final = 1024**2


class Outcome(NamedTuple):
    """What came of one run."""

    per_chunk: float
    seconds: list[float]
    broker_peak_bytes: int


def run(folder: Path, _models: Path) -> None:
    """Print the figures of each case."""
    print(f"{DEVICES} devices, one release of {WEIGHTS_BYTES / MIB:.0f} MiB in whole chunks")
    for name, most, apart_s in (("start together", 1.3, 0.0), ("start 0.4 s apart", 2.0, 0.4)):
        outcomes = [_case(folder / f"{name}-{number}", DEVICES, apart_s=apart_s) for number in range(RUNS)]
        _print(name, outcomes, most)
    alone = [_case(folder / f"alone-{number}", DEVICES - 1) for number in range(RUNS)]
    slow = [_case(folder / f"slow-{number}", DEVICES, slow_s=SLOW_CHUNK_S) for number in range(RUNS)]
    _print(f"one takes {SLOW_CHUNK_S * 1000:.0f} ms a chunk", slow, None)
    without_s, with_s = (
        statistics.median(statistics.mean(it.seconds[: DEVICES - 1]) for it in runs) for runs in (alone, slow)
    )
    slower = with_s / without_s - 1
    verdict = "met" if slower <= SLOWER_MOST else "MISSED"
    print(f"    the others take {with_s:.2f} s, without it {without_s:.2f} s: {slower:+.0%} (most +10%: {verdict})")


def _print(name: str, outcomes: list[Outcome], most: float | None) -> None:
    worst = max(it.per_chunk for it in outcomes)
    verdict = "" if most is None else f" (most {most}: {'met' if worst <= most else 'MISSED'})"
    peak = max(it.broker_peak_bytes for it in outcomes) / MIB
    print(f"  {name:24} publications per chunk, worst of {RUNS}: {worst:.2f}{verdict}; broker's peak {peak:.0f} MiB")


def _case(folder: Path, count: int, *, apart_s: float = 0.0, slow_s: float = 0.0) -> Outcome:
    devices = [f"board-{number}" for number in range(count)]
    release = published(folder / "repo", devices, weights_bytes=WEIGHTS_BYTES)

    async def fetch(url: str) -> list[float]:
        agents = [LightAgent(folder, name, url) for name in devices[:-1]]
        agents.append(LightAgent(folder, devices[-1], url, chunk_s=slow_s))
        async with connected(agents):
            return await fetch_all(agents, release, apart_s=apart_s)

    with brokers.mosquitto(folder / "broker") as broker, host(folder / "repo", broker.url):
        counted = Publications(broker.port)
        seconds = asyncio.run(fetch(broker.url))
        counted.close()
        return Outcome(counted.per_chunk(release), seconds, _peak_bytes(broker.pid))


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel doesn't say how much memory a process had")
