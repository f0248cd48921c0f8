"""Fifty swaps of a model with 64 MiB of weights while sixteen clients ask it; each answer is held to its version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from serving_parts import table
from serving_parts.table import Row
from support import swaps
from support.server_processes import memory_bytes

SWAPS: Final = 50
SETTLING_SWAPS: Final = 3
WEIGHTS_BYTES: Final = 64 * 1024**2
RSS_MOST: Final = 1.15


def run(folder: Path, _models: Path) -> Iterator[Row]:
    """The rows."""
    place = folder / "swaps"
    place.mkdir()
    with swaps.serving(place, weights_bytes=WEIGHTS_BYTES) as server:
        asyncio.run(swaps.under_load(server, SETTLING_SWAPS))
        before, begun_s = memory_bytes(server.pid, "Rss"), time.perf_counter()
        outcome = asyncio.run(swaps.under_load(server, SWAPS))
        took_s, after = time.perf_counter() - begun_s, memory_bytes(server.pid, "Rss")
    answers = outcome.by_version.total()
    yield Row(f"{SWAPS} swaps under load: answers", f"{answers}")
    yield Row(f"{SWAPS} swaps under load: a swap", f"{took_s / SWAPS * 1000:.0f} ms")
    yield table.most(f"{SWAPS} swaps under load: failed or wrong answers", len(outcome.failures), 0)
    yield table.most(f"{SWAPS} swaps under load: RSS against before", after / before, RSS_MOST, " x")
