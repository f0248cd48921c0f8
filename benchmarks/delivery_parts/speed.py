"""Speed of whole chunks to one device: on loopback beside a plain HTTP download, and over slow links.

The device is the agent's link, fetch and files in this process. It checks and writes each chunk, and syncs it with the
others of its 4 MiB; at the end it hashes every file. Host, Mosquitto and HTTP server are processes of their own.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from edgeml_agent.store.releases import Release
from harness import host
from harness.figures import Aim, Figure, Run, least
from support import brokers, light_agents
from support.light_agents import MODEL, LightAgent, connected, fetch_all, published
from support.slow_links import slow_line

DEVICE: Final = "board"
LOOPBACK_AIM: Final = least(40)


class Link(NamedTuple):
    """A slow link: bits a second, seconds of a round trip, bytes of weights to deliver, aim for the used percents."""

    bits_per_s: float
    round_trip_s: float
    weights_bytes: int
    aim: Aim | None


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes and runs on loopback, and the slow links."""

    loopback_bytes: int
    runs: int
    links: tuple[Link, ...]


FULL: Final = Size(
    loopback_bytes=128 * 1024**2,
    runs=3,
    links=(Link(2_000_000, 0.3, 6 * 1024**2, least(90)), Link(50_000, 0.6, 256 * 1024, None)),
)
QUICK: Final = Size(loopback_bytes=2 * 1024**2, runs=1, links=(Link(2_000_000, 0.05, 256 * 1024, None),))


def figures(run: Run) -> Iterator[Figure]:
    """Yield the speed on loopback and over each slow link."""
    size = run.size(FULL, QUICK)
    yield from _loopback(run.folder / "loopback", size)
    for link in size.links:
        yield _slow(run.folder / f"link-{link.bits_per_s:.0f}", link)


def _loopback(folder: Path, size: Size) -> Iterator[Figure]:
    release = published(folder / "repo", [DEVICE], weights_bytes=size.loopback_bytes)
    megabytes = release.manifest.size_bytes / 1e6
    fetched, downloaded, watch = [], [], host.Watch()
    with brokers.mosquitto(folder / "broker") as broker, light_agents.host(folder / "repo", broker.url):
        for number in range(size.runs):
            fetched.append(megabytes / _fetch(folder / f"device-{number}", broker.url, release))
            downloaded.append(megabytes / _download(folder))
            watch.lap()
    sides = {"edgeml": round(statistics.median(fetched), 1), "plain HTTP": round(statistics.median(downloaded), 1)}
    ours, http = sides.values()
    note = f"{megabytes:.0f} MB in whole chunks, median of {size.runs}"
    yield Figure(
        name="one device on loopback",
        value=ours,
        unit="MB/s",
        sides=sides,
        sides_unit="MB/s",
        host=watch.load,
        aim=LOOPBACK_AIM,
        note=note,
    )
    yield Figure(
        name="one device on loopback against plain HTTP, which neither checks nor syncs",
        value=ours / http,
        unit="x",
        host=watch.load,
    )


def _slow(folder: Path, link: Link) -> Figure:
    release = published(folder / "repo", [DEVICE], weights_bytes=link.weights_bytes)
    size_bytes = release.manifest.size_bytes
    with (
        brokers.mosquitto(folder / "broker") as broker,
        light_agents.host(folder / "repo", broker.url),
        slow_line(broker.port, bits_per_s=link.bits_per_s, round_trip_s=link.round_trip_s) as line,
        host.watching() as watch,
    ):
        seconds = _fetch(folder, f"mqtt://127.0.0.1:{line.port}", release)
        extra = line.down_bytes / size_bytes - 1
    speed, delay = f"{link.bits_per_s / 1e6:g} Mbit/s", f"{link.round_trip_s * 1000:.0f} ms round trip"
    return Figure(
        name=f"{speed}, {delay}: part of the link that the model's bytes use",
        value=size_bytes * 8 / seconds / link.bits_per_s * 100,
        unit="%",
        host=watch.load,
        aim=link.aim,
        note=f"{size_bytes / 1e6:.2f} MB in {seconds:.1f} s; {extra:.1%} more bytes were received than it has",
    )


def _fetch(folder: Path, url: str, release: Release) -> float:
    """Return the seconds from the first request until all is verified."""

    async def fetch() -> float:
        agent = LightAgent(folder, DEVICE, url)
        async with connected([agent]):
            (seconds,) = await fetch_all([agent], release)
        return seconds

    return asyncio.run(fetch())


def _download(folder: Path) -> float:
    """Return the seconds for the bundle by HTTP, to the disk."""
    port = brokers.free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}/{MODEL}.edgeml"
            _until_it_answers(url)
            begun_s = time.perf_counter()
            with urllib.request.urlopen(url) as answer, (folder / "downloaded").open("wb") as out:
                shutil.copyfileobj(answer, out, 1024**2)
            return time.perf_counter() - begun_s
        finally:
            server.kill()


def _until_it_answers(url: str) -> None:
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD")).close()  # noqa: S310 - ours
        except OSError:
            time.sleep(0.05)
        else:
            return
