"""What the agent costs: memory, time until it is ready, CPU when asked a little, `/health` when asked much."""

from __future__ import annotations

import http.client
import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from serving_parts import load, table
from serving_parts.served import Served, echo, minilm
from serving_parts.table import Row
from support import lone_agents
from support.server_processes import Server

STARTS: Final = 5
IN_FLIGHT: Final = 16
HEALTH_S: Final = 8
HEALTH_EVERY_S: Final = 0.02
SLOW_PER_S: Final = 20
SLOW_S: Final = 15
PSS_MOST_MB: Final = 75
READY_MOST_S: Final = 1
HEALTH_P99_MOST_MS: Final = 25
CPU_MOST: Final = 15
MB: Final = 1e6


def run(folder: Path, models: Path) -> Iterator[Row]:
    """The rows."""
    load.require_wrk()
    yield from _starts(folder / "empty")
    for served in (echo(folder), minilm(folder, models)):
        place = folder / f"costs-{served.name}"
        with lone_agents.running(place, [served.bundle]) as server:
            served.protocol.check(load.answer(server.port, served.protocol.request))
            yield Row(f"{served.name}: PSS", f"{server.pss_bytes() / MB:.1f} MB")
            yield _cpu(server, served)
            yield _health(server, served, place)
            served.protocol.check(load.answer(server.port, served.protocol.request))


def _starts(place: Path) -> Iterator[Row]:
    """Without a model, as a device is that was just enrolled."""
    ready_s, pss_mb = [], []
    for _ in range(STARTS):
        with lone_agents.running(place) as server:
            time.sleep(1)  # what is imported late is there
            ready_s.append(server.ready_s)
            pss_mb.append(server.pss_bytes() / MB)
    yield table.most("PSS without a model", statistics.median(pss_mb), PSS_MOST_MB, " MB")
    yield table.most("ready after the start", statistics.median(ready_s), READY_MOST_S, " s")


def _cpu(server: Server, served: Served) -> Row:
    """A request each 50 ms on one connection, of one core."""
    link = http.client.HTTPConnection("127.0.0.1", server.port)
    load.answer_on(link, served.protocol.request)
    begun_s, used_s = time.perf_counter(), server.cpu_s()
    for number in range(SLOW_PER_S * SLOW_S):
        time.sleep(max(0.0, begun_s + number / SLOW_PER_S - time.perf_counter()))
        load.answer_on(link, served.protocol.request)
    share = (server.cpu_s() - used_s) / (time.perf_counter() - begun_s) * 100
    link.close()
    what = f"{served.name}: CPU at {SLOW_PER_S} requests/s"
    return Row(what, f"{share:.1f} %") if served.name != "echo" else table.most(what, share, CPU_MOST, " %")


def _health(server: Server, served: Served, place: Path) -> Row:
    """As a watchdog asks: a new connection each time, while others saturate the model."""
    wrk = load.started(server.port, served.protocol.request, place, connections=IN_FLIGHT, seconds=HEALTH_S + 2)
    time.sleep(1)
    times_ms, until = [], time.perf_counter() + HEALTH_S
    while time.perf_counter() < until:
        times_ms.append(_health_ms(server.port))
        time.sleep(HEALTH_EVERY_S)
    load.ended(wrk)
    p99_ms = statistics.quantiles(times_ms, n=100)[-1]
    what = f"{served.name}: /health p99 beside {IN_FLIGHT} connections"
    return table.most(what, p99_ms, HEALTH_P99_MOST_MS, " ms")


def _health_ms(port: int) -> float:
    begun = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=load.ANSWER_MAX_S) as answer:
        answer.read()
    return (time.perf_counter() - begun) * 1000
