"""The agent beside MLServer, KServe's Python server and LitServe: the same model, machine and load, in turns.

All servers run for the whole comparison; one at a time gets load, first on one connection and then on sixteen. Between
the rounds the runtime runs alone in a process of its own. A server's added latency is its median less that one's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness import host
from harness.figures import Aim, Figure, HostLoad, Outcome, Run, least, most
from harness.rivals import RivalUnavailableError
from serving_parts import load, rival_servers, runtime_alone
from serving_parts.load import Load
from serving_parts.rival_servers import RIVALS, Rival
from serving_parts.runtime_alone import RuntimeAlone
from serving_parts.served_models import Endpoint, ServedModel, echo, minilm
from support import lone_agents
from support.server_processes import Server

CONNECTIONS: Final = 16
ADDED_AIM: Final = most(0.4)
AGENT: Final = "edgeml-agent, Open Inference JSON"
AGENT_BINARY: Final = "edgeml-agent, Open Inference binary"
AGENT_TASK: Final = "edgeml-agent, task"
BARE: Final = "bare socket, binary"
MIB: Final = 1024**2


@dataclass(frozen=True, kw_only=True)
class Size:
    """Rounds, whether the agent tunes first, and seconds of load in a turn and for a median of the runtime alone."""

    rounds: int
    tunes: bool
    turn_s: float
    alone_s: float


FULL: Final = Size(rounds=7, tunes=True, turn_s=2, alone_s=0.5)
QUICK: Final = Size(rounds=1, tunes=False, turn_s=1, alone_s=0.2)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A server at one of its endpoints, and its results round by round.

    `aim` bounds the ratio of the agent's throughput to this server's.
    """

    name: str
    server: Server
    endpoint: Endpoint
    aim: Aim | None = None
    alone: list[Load] = field(default_factory=list)
    loaded: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    pss_bytes: list[int] = field(default_factory=list)

    def measure(self, folder: Path, turn_s: float) -> None:
        """Load the server on one connection, then on sixteen; check an answer before and after."""
        port, request = self.server.port, self.endpoint.request
        self.endpoint.check(load.answer(port, request))
        self.alone.append(load.run(port, request, folder, connections=1, seconds=turn_s))
        before_s = self.server.cpu_s()
        self.loaded.append(load.run(port, request, folder, connections=CONNECTIONS, seconds=turn_s))
        self.cpu_us.append((self.server.cpu_s() - before_s) / self.loaded[-1].requests * 1e6)
        self.endpoint.check(load.answer(port, request))
        self.pss_bytes.append(self.server.pss_bytes())


def figures(run: Run) -> Iterator[Outcome]:
    """Yield latency, throughput, CPU and memory of all servers with both models, and the agent's ratios to the rest."""
    load.check_wrk()
    available: dict[Rival, Path] = {}
    for rival in RIVALS:
        try:
            available[rival] = rival.programs(installs=not run.is_quick)
        except RivalUnavailableError as error:
            yield error.omission(rival.name)
    text = minilm(run.folder, run)
    for served in (text,) if run.is_quick else (echo(run.folder), text):
        yield from _compare(run.folder / f"servers-{served.name}", served, available, run.size(FULL, QUICK))


def _compare(folder: Path, served: ServedModel, available: dict[Rival, Path], size: Size) -> Iterator[Figure]:
    folder.mkdir()
    with ExitStack() as stack:
        entrants = {it.name: it for it in _entrants(stack, folder, served, available, size)}
        runtime = stack.enter_context(runtime_alone.started(served, seconds=size.alone_s))
        watch = host.Watch()
        for _ in range(size.rounds):
            runtime.measure()
            for entrant in entrants.values():
                entrant.measure(folder, size.turn_s)
            watch.lap()
    yield from _values(served.name, entrants, watch.load)
    yield from _added(served.name, entrants, runtime, watch.load)
    yield from _ratios(served.name, entrants, runtime, watch.load)


def _entrants(
    stack: ExitStack, folder: Path, served: ServedModel, available: dict[Rival, Path], size: Size
) -> Iterator[Entrant]:
    agent = stack.enter_context(lone_agents.running(folder / "agent", [served.bundle], tunes=size.tunes))
    yield Entrant(name=AGENT, server=agent, endpoint=served.protocol)
    yield Entrant(name=AGENT_BINARY, server=agent, endpoint=served.binary)
    yield Entrant(name=AGENT_TASK, server=agent, endpoint=served.task)
    yield Entrant(name=BARE, server=stack.enter_context(rival_servers.bare(folder, served)), endpoint=served.binary)
    for rival, programs in available.items():
        server = stack.enter_context(rival_servers.running(rival, programs, folder / rival.name, served))
        yield Entrant(name=rival.name, server=server, endpoint=rival.endpoint(served), aim=least(rival.aim))


def _values(model: str, entrants: dict[str, Entrant], loaded: HostLoad) -> Iterator[Figure]:
    """Yield the agent's values; the sides are those of all servers."""
    readers: dict[tuple[str, str], Callable[[Entrant], float]] = {
        ("p50, 1 connection", "ms"): lambda it: statistics.median(turn.p50_ms for turn in it.alone),
        (f"throughput, {CONNECTIONS} connections", "requests/s"): lambda it: statistics.median(
            turn.per_s for turn in it.loaded
        ),
        (f"CPU of a request, {CONNECTIONS} connections", "us"): lambda it: statistics.median(it.cpu_us),
        ("PSS", "MiB"): lambda it: statistics.median(it.pss_bytes) / MIB,
        ("ready after the start", "s"): lambda it: it.server.ready_s,
    }
    for (what, unit), read in readers.items():
        sides = {name: round(read(it), 3) for name, it in entrants.items()}
        yield Figure(name=f"{model}: {what}", value=sides[AGENT], unit=unit, sides=sides, sides_unit=unit, host=loaded)


def _added(model: str, entrants: dict[str, Entrant], runtime: RuntimeAlone, loaded: HostLoad) -> Iterator[Figure]:
    """Yield the latency that a server adds to the runtime alone."""
    run_ms = {"session.run": round(statistics.median(runtime.run_ms), 3)}
    for name in (AGENT, AGENT_BINARY, AGENT_TASK, BARE):
        yield Figure(
            name=f"{model}: p50 added to session.run by {name}",
            value=_added_ms(entrants[name], runtime.run_ms),
            unit="ms",
            sides=run_ms,
            sides_unit="ms",
            host=loaded,
            aim=None if name == BARE else ADDED_AIM,
            note="the least that any server in Python adds" if name == BARE else "",
        )
    yield Figure(
        name=f"{model}: p50 added to an answer without a server by {AGENT_TASK}",
        value=_added_ms(entrants[AGENT_TASK], runtime.answer_ms),
        unit="ms",
        sides={"answer": round(statistics.median(runtime.answer_ms), 3)},
        sides_unit="ms",
        host=loaded,
        aim=ADDED_AIM,
    )


def _ratios(model: str, entrants: dict[str, Entrant], runtime: RuntimeAlone, loaded: HostLoad) -> Iterator[Figure]:
    """Yield the ratios of throughput, each the median of the ratios round by round."""
    agent = entrants[AGENT]
    per_s = {name: round(statistics.median(turn.per_s for turn in it.loaded), 1) for name, it in entrants.items()}
    bound = per_s[AGENT] * statistics.median(runtime.run_ms) / 1000
    yield Figure(name=f"{model}: throughput against session.run in one thread", value=bound, unit="x", host=loaded)
    for it in entrants.values():
        if it.aim is not None:
            yield Figure(
                name=f"{model}: throughput against {it.name}",
                value=statistics.median(a.per_s / b.per_s for a, b in zip(agent.loaded, it.loaded, strict=True)),
                unit="x",
                sides={name: per_s[name] for name in (AGENT, it.name)},
                sides_unit="requests/s",
                host=loaded,
                aim=it.aim,
            )


def _added_ms(entrant: Entrant, alone_ms: Sequence[float]) -> float:
    """Return the median of the differences round by round."""
    return statistics.median(turn.p50_ms - ms for turn, ms in zip(entrant.alone, alone_ms, strict=True))
