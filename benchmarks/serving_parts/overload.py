"""Clients that want four times a model's capacity; a refused client comes back after the seconds in Retry-After."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeml_agent.serve.worker import QUEUE_MAX
from harness import host
from harness.figures import Figure, Run, least, most
from support import lone_agents, overload
from support.overload import Asked
from support.server_processes import Server, memory_bytes
from support.tiny_models import tiny_onnx_bundle

MODEL: Final = "slow"
#: Rounds of the model's loop, about 20 ms a run: far longer than the server's own time for a request.
ROUNDS: Final = 10_000
#: The clients' rate as a multiple of the capacity.
TIMES: Final = 4
LATENCY_AIM: Final = most(3)
MEMORY_AIM: Final = most(1.1)
ROW: Final = (1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Seconds of overload, and of each measurement before it."""

    seconds: float
    measure_s: float


FULL: Final = Size(seconds=60, measure_s=4)
QUICK: Final = Size(seconds=2, measure_s=1)


def figures(run: Run) -> Iterator[Figure]:
    """Yield latency, refusals, failures and memory."""
    bundle = run.folder / f"{MODEL}.edgeml"
    tiny_onnx_bundle(bundle, name=MODEL, rounds=ROUNDS)
    with lone_agents.running(run.folder / "overload", [bundle]) as server:
        yield from asyncio.run(_measure(server, run.size(FULL, QUICK)))


async def _measure(server: Server, size: Size) -> list[Figure]:
    request = _request(server.port)
    alone_s = statistics.median(await overload.unloaded_s(request, size.measure_s))
    per_s = await overload.capacity_per_s(request, size.measure_s)
    before = memory_bytes(server.pid, "Rss")
    with host.watching() as watch:
        outcome = await overload.overload(request, wanted_per_s=TIMES * per_s, seconds=size.seconds)
    after = memory_bytes(server.pid, "Rss")
    p99_s = statistics.quantiles(outcome.accepted_s, n=100)[-1]
    first_time = sum(returns == 1 for returns in outcome.returned) / max(1, len(outcome.returned))
    load, what = watch.load, f"{TIMES} x capacity:"
    counts = f"{size.seconds:.0f} s, {len(outcome.accepted_s)} answered, {len(outcome.told_s)} refused"
    return [
        Figure(name=f"{what} unloaded p50", value=alone_s * 1000, unit="ms", host=load),
        Figure(name=f"{what} capacity", value=per_s, unit="requests/s", host=load, note=counts),
        Figure(name=f"{what} answers other than 200 and 429", value=len(outcome.failures), host=load, aim=most(0)),
        Figure(
            name=f"{what} p99 against unloaded p50 x queue",
            value=p99_s / alone_s / QUEUE_MAX,
            unit="x",
            host=load,
            aim=LATENCY_AIM,
        ),
        Figure(
            name=f"{what} refused clients that are answered when they first come back",
            value=first_time * 100,
            unit="%",
            host=load,
            aim=least(100),
        ),
        Figure(name=f"{what} memory against before", value=after / before, unit="x", host=load, aim=MEMORY_AIM),
    ]


def _request(port: int) -> Asked:
    body = {"inputs": [{"name": "x", "shape": [1, len(ROW)], "datatype": "FP32", "data": ROW}]}
    right = [2 * x + 1 for x in ROW]
    return Asked(
        port=port,
        path=f"/v2/models/{MODEL}/infer",
        body=json.dumps(body).encode(),
        is_right=lambda content: json.loads(content)["outputs"][0]["data"] == right,
    )
