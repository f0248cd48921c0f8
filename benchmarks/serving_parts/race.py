"""The agent beside MLServer, KServe's Python server and LitServe: the same model, machine and load, in turns.

All run for the whole race; one is asked at a time, with one connection and with sixteen. Between the rounds the runtime
runs alone in a process of its own: what a server adds is its median less that, round by round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from serving_parts import alone, load, others, table
from serving_parts.alone import Alone
from serving_parts.load import Load
from serving_parts.served import Door, Served, echo, minilm
from serving_parts.table import Row
from support import lone_agents
from support.server_processes import Server

ROUNDS: Final = 7
TURN_S: Final = 2
IN_FLIGHT: Final = 16
ADDED_MOST_MS: Final = 0.4
AGENT: Final = "edgeml-agent"
BARE: Final = "bare socket, binary"
#: The first so many entrants are ours; the next one is bare.
OWN_DOORS: Final = 3
MIB: Final = 1024**2


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A server at one of its doors; `aim` is how many times ours should do what it does."""

    name: str
    server: Server
    door: Door
    aim: float | None = None
    one: list[Load] = field(default_factory=list)
    many: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    pss_bytes: list[int] = field(default_factory=list)

    def turn(self, place: Path) -> None:
        """Be asked, with one connection and with many; answers are looked at before and after."""
        port, request = self.server.port, self.door.request
        self.door.check(load.answer(port, request))
        self.one.append(load.run(port, request, place, connections=1, seconds=TURN_S))
        before_s = self.server.cpu_s()
        self.many.append(load.run(port, request, place, connections=IN_FLIGHT, seconds=TURN_S))
        self.cpu_us.append((self.server.cpu_s() - before_s) / self.many[-1].requests * 1e6)
        self.door.check(load.answer(port, request))
        self.pss_bytes.append(self.server.pss_bytes())


def run(folder: Path, models: Path) -> Iterator[Row]:
    """Print a table for each of the two models; the rows of what was aimed at."""
    load.require_wrk()
    rivals = list(others.installed())
    for served in (echo(folder), minilm(folder, models)):
        yield from _race(folder / f"race-{served.name}", served, rivals)


def _race(place: Path, served: Served, rivals: Sequence[others.Rival]) -> Iterator[Row]:
    place.mkdir()
    with ExitStack() as stack:
        entrants = list(_entrants(stack, place, served, rivals))
        runtime = stack.enter_context(alone.started(served))
        other_cores: list[float] = []
        for _ in range(ROUNDS):
            other_cores += table.look()
            runtime.measure()
            for entrant in entrants:
                entrant.turn(place)
    run, answer = _spread(runtime.run_ms, 3), _spread(runtime.answer_ms, 3)
    print(f"\n{served.name}: session.run {run} ms, an answer {answer} ms; {table.busy(other_cores)}")
    _print(entrants)
    yield from _rows(served, runtime, entrants)


def _entrants(stack: ExitStack, place: Path, served: Served, rivals: Sequence[others.Rival]) -> Iterator[Entrant]:
    agent = stack.enter_context(lone_agents.running(place / "agent", [served.bundle], tunes=True))
    yield Entrant(name=AGENT, server=agent, door=served.protocol)
    yield Entrant(name=f"{AGENT}, binary", server=agent, door=served.binary)
    yield Entrant(name=f"{AGENT}, task door", server=agent, door=served.task)
    yield Entrant(name=BARE, server=stack.enter_context(others.bare(place, served)), door=served.binary)
    for rival in rivals:
        server = stack.enter_context(others.running(rival, place / rival.name, served))
        yield Entrant(name=f"{rival.name} {rival.version}", server=server, door=rival.door(served), aim=rival.aim)


def _print(entrants: Sequence[Entrant]) -> None:
    print(f"  {'':24}  p50 ms, 1 connection   requests/s, {IN_FLIGHT} connections   their CPU us   PSS MiB   ready s")
    for it in entrants:
        one = _spread([load.p50_ms for load in it.one], 2)
        many = _spread([load.per_s for load in it.many], 0)
        pss = statistics.median(it.pss_bytes) / MIB
        cpu_us = statistics.median(it.cpu_us)
        print(f"  {it.name:24}  {one:21}  {many:28}  {cpu_us:12.0f}   {pss:7.0f}   {it.server.ready_s:7.1f}")


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _rows(served: Served, runtime: Alone, entrants: Sequence[Entrant]) -> Iterator[Row]:
    ours = entrants[0]
    for it in entrants[:OWN_DOORS]:
        yield table.most(f"{served.name}: p50 added by {it.name}", _added_ms(it, runtime.run_ms), ADDED_MOST_MS, " ms")
    bare_ms = _added_ms(entrants[OWN_DOORS], runtime.run_ms)
    yield Row(f"{served.name}: p50 added by a {BARE}: no server adds less", f"{bare_ms:.3f} ms")
    task = entrants[OWN_DOORS - 1]
    what = f"{served.name}: p50 added by {task.name} to an answer without a server"
    yield table.most(what, _added_ms(task, runtime.answer_ms), ADDED_MOST_MS, " ms")
    bound = statistics.median(load.per_s for load in ours.many) * statistics.median(runtime.run_ms) / 1000
    yield Row(f"{served.name}: throughput against session.run, one after the other", f"{bound:.3g} x")
    for it in entrants:
        if it.aim is not None:
            # Round by round: what else the machine did then fell on both.
            ratio = statistics.median(a.per_s / b.per_s for a, b in zip(ours.many, it.many, strict=True))
            yield table.least(f"{served.name}: throughput against {it.name}", ratio, it.aim, " x")


def _added_ms(entrant: Entrant, alone_ms: Sequence[float]) -> float:
    """Round by round: what else the machine did then fell on both."""
    return statistics.median(load.p50_ms - ms for load, ms in zip(entrant.one, alone_ms, strict=True))
