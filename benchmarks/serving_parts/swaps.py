"""Swaps of a model with large weights while sixteen clients send requests; each answer is checked for its version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness import host
from harness.figures import Figure, Run, most
from support import swaps
from support.server_processes import memory_bytes

FAILURES_AIM: Final = most(0)
MEMORY_AIM: Final = most(1.15)


@dataclass(frozen=True, kw_only=True)
class Size:
    """The number of swaps, of swaps before the memory is first read, and the bytes of the weights."""

    swaps: int
    settling_swaps: int
    weights_bytes: int


FULL: Final = Size(swaps=50, settling_swaps=3, weights_bytes=64 * 1024**2)
QUICK: Final = Size(swaps=3, settling_swaps=1, weights_bytes=4 * 1024**2)


def figures(run: Run) -> Iterator[Figure]:
    """Yield the answers, the time of a swap, the failures and the memory."""
    size, folder = run.size(FULL, QUICK), run.folder / "swaps"
    folder.mkdir()
    with swaps.serving(folder, weights_bytes=size.weights_bytes) as server:
        asyncio.run(swaps.under_load(server, size.settling_swaps))
        with host.watching() as watch:
            before, begun_s = memory_bytes(server.pid, "Rss"), time.perf_counter()
            outcome = asyncio.run(swaps.under_load(server, size.swaps))
            seconds, after = time.perf_counter() - begun_s, memory_bytes(server.pid, "Rss")
    answers, failures, each_ms = outcome.by_version.total(), len(outcome.failures), seconds / size.swaps * 1000
    note = f"{size.swaps} swaps, {answers} answers"
    yield Figure(name="swaps under load: time of a swap", value=each_ms, unit="ms", host=watch.load, note=note)
    yield Figure(
        name="swaps under load: failed or wrong answers", value=failures, host=watch.load, aim=FAILURES_AIM, note=note
    )
    yield Figure(
        name="swaps under load: memory against before", value=after / before, unit="x", host=watch.load, aim=MEMORY_AIM
    )
