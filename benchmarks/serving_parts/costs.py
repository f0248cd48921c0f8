"""The agent's costs: memory, start-up time, CPU at a low rate of requests, `/health` beside full load."""

from __future__ import annotations

import http.client
import statistics
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import host
from harness.figures import Figure, Run, most
from serving_parts import load
from serving_parts.served_models import ECHO, ServedModel, echo, minilm
from support import lone_agents
from support.server_processes import Server

CONNECTIONS: Final = 16
#: Seconds between two requests for /health: a watchdog with a second would need minutes for a 99th percentile.
HEALTH_EVERY_S: Final = 0.02
#: Requests a second at the low rate.
LOW_PER_S: Final = 20
#: Seconds after readiness until memory is read: modules that are imported late are loaded then.
SETTLE_S: Final = 1
PSS_AIM: Final = most(75)
READY_AIM: Final = most(1)
HEALTH_AIM: Final = most(25)
CPU_AIM: Final = most(15)
MB: Final = 1e6


@dataclass(frozen=True, kw_only=True)
class Size:
    """The number of starts, and the seconds at the low rate and beside full load."""

    starts: int
    low_s: float
    health_s: float


FULL: Final = Size(starts=5, low_s=15, health_s=8)
QUICK: Final = Size(starts=1, low_s=1, health_s=1)


def figures(run: Run) -> Iterator[Figure]:
    """Yield the costs without a model, and with each of both models."""
    load.check_wrk()
    size = run.size(FULL, QUICK)
    yield from _starts(run.folder / "empty", size.starts)
    for served in (echo(run.folder),) if run.is_quick else (echo(run.folder), minilm(run.folder, run)):
        folder = run.folder / f"costs-{served.name}"
        with lone_agents.running(folder, [served.bundle]) as server:
            served.protocol.check(load.answer(server.port, served.protocol.request))
            with host.watching() as watch:
                pss_mb = server.pss_bytes() / MB
            yield Figure(name=f"{served.name}: PSS of the agent", value=pss_mb, unit="MB", host=watch.load)
            yield _cpu(server, served, size.low_s)
            yield _health(server, served, folder, size.health_s)
            served.protocol.check(load.answer(server.port, served.protocol.request))


def _starts(folder: Path, starts: int) -> Iterator[Figure]:
    """Start an agent without a model, as it is just after enrolment."""
    ready_s, pss_mb = [], []
    with host.watching() as watch:
        for _ in range(starts):
            with lone_agents.running(folder) as server:
                time.sleep(SETTLE_S)
                ready_s.append(server.ready_s)
                pss_mb.append(server.pss_bytes() / MB)
    median_s = statistics.median(ready_s)
    yield Figure(name="PSS without a model", value=statistics.median(pss_mb), unit="MB", host=watch.load, aim=PSS_AIM)
    yield Figure(name="ready after the start", value=median_s, unit="s", host=watch.load, aim=READY_AIM)


def _cpu(server: Server, served: ServedModel, seconds: float) -> Figure:
    """Measure the share of one core that a low rate of requests on one connection takes."""
    link = http.client.HTTPConnection("127.0.0.1", server.port)
    load.answer_on(link, served.protocol.request)
    with host.watching() as watch:
        begun_s, before_s = time.perf_counter(), server.cpu_s()
        for number in range(round(LOW_PER_S * seconds)):
            time.sleep(max(0.0, begun_s + number / LOW_PER_S - time.perf_counter()))
            load.answer_on(link, served.protocol.request)
        percent = (server.cpu_s() - before_s) / (time.perf_counter() - begun_s) * 100
    link.close()
    name, aim = f"{served.name}: CPU at {LOW_PER_S} requests/s", CPU_AIM if served.name == ECHO else None
    return Figure(name=name, value=percent, unit="% of a core", host=watch.load, aim=aim)


def _health(server: Server, served: ServedModel, folder: Path, seconds: float) -> Figure:
    """Request /health on a new connection each time, as a watchdog does, while other clients saturate the model."""
    wrk = load.started(server.port, served.protocol.request, folder, connections=CONNECTIONS, seconds=seconds + 2)
    time.sleep(1)
    with host.watching() as watch:
        times_ms, until_s = [], time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            times_ms.append(_health_ms(server.port))
            time.sleep(HEALTH_EVERY_S)
    load.ended(wrk)
    p99_ms = statistics.quantiles(times_ms, n=100)[-1]
    name = f"{served.name}: /health p99 beside {CONNECTIONS} connections"
    return Figure(name=name, value=p99_ms, unit="ms", host=watch.load, aim=HEALTH_AIM)


def _health_ms(port: int) -> float:
    begun_s = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=load.ANSWER_MAX_S) as answer:
        answer.read()
    return (time.perf_counter() - begun_s) * 1000
