"""How fast whole chunks come to one device: on loopback beside a plain HTTP download, and over slow lines.

The device is the agent's link, fetch and files in this process: each chunk is checked, written, and synced with the
others of its 4 MiB; at the end every file is hashed. Host, Mosquitto and HTTP server are processes of their own.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final

from edgeml_agent.store.releases import Release
from support import brokers
from support.light_agents import MODEL, LightAgent, connected, fetch_all, host, published
from support.slow_links import slow_line

LOOPBACK_BYTES: Final = 128 * 1024**2
LOOPBACK_LEAST_MB_PER_S: Final = 40
RUNS: Final = 3
#: Bits a second, seconds there and back, bytes of weights, the least share of the line or None.
LINES: Final = ((2_000_000, 0.3, 6 * 1024**2, 0.9), (50_000, 0.6, 256 * 1024, None))
DEVICE: Final = "board"


def run(folder: Path, _models: Path) -> None:
    """Print both."""
    _loopback(folder / "loopback")
    for bits_per_s, round_trip_s, weights_bytes, least in LINES:
        _slow(folder / f"line-{bits_per_s}", bits_per_s, round_trip_s, weights_bytes, least)


def _loopback(folder: Path) -> None:
    release = published(folder / "repo", [DEVICE], weights_bytes=LOOPBACK_BYTES)
    megabytes = release.manifest.size_bytes / 1e6
    fetched, downloaded = [], []
    with brokers.mosquitto(folder / "broker") as broker, host(folder / "repo", broker.url):
        for number in range(RUNS):
            fetched.append(megabytes / _fetch(folder / f"device-{number}", broker.url, release))
            downloaded.append(megabytes / _download(folder))
    ours, http = statistics.median(fetched), statistics.median(downloaded)
    verdict = "met" if ours >= LOOPBACK_LEAST_MB_PER_S else "MISSED"
    print(f"loopback, one device, {megabytes:.0f} MB in whole chunks, median of {RUNS}:")
    print(
        f"  {ours:.0f} MB/s (least {LOOPBACK_LEAST_MB_PER_S}: {verdict}),"
        f" {ours / http:.2f} of plain HTTP's {http:.0f} MB/s"
    )


def _slow(folder: Path, bits_per_s: int, round_trip_s: float, weights_bytes: int, least: float | None) -> None:
    release = published(folder / "repo", [DEVICE], weights_bytes=weights_bytes)
    size_bytes = release.manifest.size_bytes
    with (
        brokers.mosquitto(folder / "broker") as broker,
        host(folder / "repo", broker.url),
        slow_line(broker.port, bits_per_s=bits_per_s, round_trip_s=round_trip_s) as line,
    ):
        seconds = _fetch(folder, f"mqtt://127.0.0.1:{line.port}", release)
        extra = line.down_bytes / size_bytes - 1
    share = size_bytes * 8 / seconds / bits_per_s
    verdict = "" if least is None else f" (least {least:.0%}: {'met' if share >= least else 'MISSED'})"
    print(f"{bits_per_s / 1e6:g} Mbit/s, {round_trip_s * 1000:.0f} ms there and back, {size_bytes / 1e6:.2f} MB:")
    print(f"  {share:.1%} of the line is model{verdict}; {seconds:.1f} s; {extra:.1%} more bytes came than it has")


def _fetch(folder: Path, url: str, release: Release) -> float:
    """Seconds from the first want until all is verified."""

    async def fetch() -> float:
        agent = LightAgent(folder, DEVICE, url)
        async with connected([agent]):
            (seconds,) = await fetch_all([agent], release)
        return seconds

    return asyncio.run(fetch())


def _download(folder: Path) -> float:
    """Seconds for the bundle by HTTP, to the disk."""
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
